#!/bin/sh
# Caffe's binary embeds Python, which looks for its packages beside the first python3 on PATH:
# make that the virtual environment's, whether or not it is activated.
here=$(dirname -- "$(readlink -f -- "$0")")
PATH="$here:$PATH" exec "$here/../libexec/caffe" "$@"
