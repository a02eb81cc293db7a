"""What the C functions take: the structures of model.h, linear.h and attention.h, field by field."""

import ctypes
from ctypes import POINTER, c_float, c_int64, c_void_p
from enum import IntEnum


class Linear(ctypes.Structure):
    """`linear`: weights in 4-bit blocks, or dense."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("table", c_void_p),
        ("dense", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("block", c_int64),
        ("arithmetic", c_int64),
        ("steps", c_void_p),
        ("step", c_float),
    )


class NormKind(IntEnum):
    """`norm_kind`: how a norm multiplies and rounds."""

    ROUNDED_FIRST = 0
    ROUNDED_LAST = 1
    PLUS_ONE = 2


class GateKind(IntEnum):
    """`gate_kind`: the activation of a gate."""

    SILU = 0
    GELU_TANH = 1


class Layer(ctypes.Structure):
    """`layer`: one decoder layer."""

    _fields_ = (
        ("input_norm", c_void_p),
        ("network_norm", c_void_p),
        ("attended_norm", c_void_p),
        ("fed_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("query", Linear),
        ("key", Linear),
        ("value", Linear),
        ("output", Linear),
        ("gate", Linear),
        ("up", Linear),
        ("down", Linear),
        ("window", c_int64),
        ("rotation", c_int64),
    )


class Model(ctypes.Structure):
    """`model`: all layers, and the head."""

    _fields_ = (
        ("layers", POINTER(Layer)),
        ("final_norm", c_void_p),
        ("head", Linear),
        ("layer_count", c_int64),
        ("width", c_int64),
        ("inner", c_int64),
        ("heads", c_int64),
        ("key_heads", c_int64),
        ("head_dim", c_int64),
        ("norm_kind", c_int64),
        ("norms_all_heads", c_int64),
        ("gate_kind", c_int64),
        ("epsilon", c_float),
        ("scaling", c_float),
        ("score_cap", c_float),
        ("logit_cap", c_float),
    )


class Slab(ctypes.Structure):
    """`slab`: where keys and values are."""

    _fields_ = (
        ("keys", POINTER(c_void_p)),
        ("values", POINTER(c_void_p)),
        ("row_stride", c_int64),
        ("head_stride", c_int64),
    )


class Tokens(ctypes.Structure):
    """`tokens`: what one pass is to read."""

    _fields_ = (
        ("count", c_int64),
        ("places", c_void_p),
        ("hidden", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("slabs", POINTER(Slab)),
        ("asked_count", c_int64),
        ("asked", c_void_p),
        ("logits", c_void_p),
    )
