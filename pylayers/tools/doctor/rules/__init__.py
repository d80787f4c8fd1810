"""The rules of `pylayers doctor`, one function each, by topic. To import this package registers all of them."""

from pylayers.tools.doctor.rules import data, gradients, losses, options, python_layers, sums, whole_net

__all__ = ["data", "gradients", "losses", "options", "python_layers", "sums", "whole_net"]
