#!/bin/sh
# The caffe command of a bundle, run by the Python in whose site-packages it lies, else by the first on PATH.
here=$(dirname -- "$(readlink -f -- "$0")")
python=python3
case $here in
  */lib*/python*/site-packages/caffe/bin) [ ! -x "${here%/lib*/python*}/bin/python3" ] || python=${here%/lib*/python*}/bin/python3 ;;
esac
exec "$python" "$here/command.py" "$@"
