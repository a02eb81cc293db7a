"""Looks through a message on the wire, before it is parsed, for lists that are longer than they may be. Pure.

To parse a message of many megabytes holds the interpreter for as long as its lists are long, and what it makes of them
takes more memory than the bytes did. So the tags are walked first, in the encoding that protobuf documents
(https://protobuf.dev/programming-guides/encoding/), up to the first list over its limit. What a list holds is counted
without being looked at, packed or not, and how many tags a message may have at all is bounded: so the walk takes a few
milliseconds, whatever the bytes are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from ..domain.errors import out_of_range
from .codec import too_many

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.descriptor import Descriptor

    from ..domain.errors import Violation
    from .codec import ListLimit

MAX_TAGS = 12_288
"""Most tags in a message, all that it contains included: more than all lists together have at their limits."""
SMALL_BYTES = 64
"""A message in a list that has no lists itself is not gone into if it has no more bytes."""
RUN = 16
"""So many entries of an unpacked list count as one tag: they are skipped at once."""
MAX_RUN = 65_536
"""Most entries of an unpacked list that are skipped at once."""

_VARINT, _I64, _LEN, _GROUP, _END_GROUP, _I32 = range(6)
_MAX_VARINT_BYTES = 10
_CONTINUED = bytes(range(128, 256))
_UNPACKABLE = {FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE}
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}


class _MalformedError(Exception):
    """No message: protobuf says so itself."""


class _TooManyError(Exception):
    """The list, or the message, with more than it may have."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.description)
        self.violation = violation


class Walk:
    """What a message of one type may have.

    Args:
        descriptor: The type.
        lists: The limits of its repeated fields, by path. Those without one are bounded by the number of tags alone.
    """

    def __init__(self, descriptor: Descriptor, lists: Mapping[str, ListLimit]) -> None:
        self._fields = _fields(descriptor, lists, "")

    def violation(self, data: bytes) -> Violation | None:
        """The first list with more than it may have; None if there is none, or if this is no message at all."""
        try:
            _Walker(data).walk(0, len(data), self._fields, ({}, None))
        except _TooManyError as error:
            return error.violation
        except _MalformedError:
            return None
        return None


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    name: str
    is_repeated: bool
    limit: ListLimit | None
    """Entries, or bytes, that it may have."""
    width: int | None
    """Bytes of a packed entry, 0 if they vary; None if entries are not packed."""
    run: re.Pattern[bytes] | None
    """Consecutive entries that are not packed, as many as there may be and one more."""
    fields: Mapping[int, _Field] | None
    """Those of the message that it holds."""
    skipped_bytes: int
    """What it holds is not gone into if it has no more bytes than this."""


_Place = tuple[Any, str, int | None]
"""Where a message is: in which place, under which name, and which one of a list it is."""
_Counts = dict[_Field, int]
"""Entries that have come of a message's lists, and of those in its fields: one that comes in pieces adds up."""
_Owner = tuple[_Counts, _Place | None]
"""The message whose fields are walked."""


def _path(place: _Place | None) -> str:
    if place is None:
        return ""
    owner, name, index = place
    within = f"{_path(owner)}." if owner else ""
    return within + name + ("" if index is None else f"[{index}]")


def _fields(descriptor: Descriptor, lists: Mapping[str, ListLimit], within: str) -> Mapping[int, _Field]:
    return {each.number: _field(each, lists, within) for each in descriptor.fields}


def _field(each: FieldDescriptor, lists: Mapping[str, ListLimit], within: str) -> _Field:
    path = within + each.name
    limit = lists.get(path)
    is_opaque = limit is not None and not each.is_repeated
    is_packable = each.is_repeated and each.cpp_type not in _UNPACKABLE
    width = _FIXED.get(each.type, 0) if is_packable else None
    fields = _fields(each.message_type, lists, f"{path}.") if each.message_type and not is_opaque else None
    is_leaf = fields is not None and not any(inner.is_repeated or inner.fields for inner in fields.values())
    return _Field(
        name=each.name,
        is_repeated=each.is_repeated,
        limit=limit,
        width=width,
        run=_run(each.number, limit.most) if limit and width == 0 else None,
        fields=fields,
        skipped_bytes=SMALL_BYTES if is_leaf else 0,
    )


def _run(number: int, most: int) -> re.Pattern[bytes]:
    tag, rest = b"", number << 3 | _VARINT
    while rest > 0x7F:
        tag += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    entry = re.escape(tag + bytes([rest])) + rb"[\x80-\xff]{0,9}+[\x00-\x7f]"
    return re.compile(b"(?:%b){0,%d}+" % (entry, min(most, MAX_RUN) + 1), re.DOTALL)


class _Walker:
    """One walk over the bytes of a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._tags = 0

    def walk(self, at: int, end: int, fields: Mapping[int, _Field], owner: _Owner) -> None:
        """Goes from `at` to `end`, which hold fields of one message."""
        while at < end:
            self._count_tags(1, owner)
            begin = at
            tag, at = self._varint(at, end)
            kind, known = tag & 7, fields.get(tag >> 3)
            if kind == _LEN:
                size, at = self._varint(at, end)
                if size > end - at:
                    raise _MalformedError
                if known is not None:
                    self._enter(at, at + size, known, owner)
                at += size
            elif kind == _VARINT:
                _, at = self._varint(at, end)
                if known is not None and known.width == 0:
                    at = self._pass_run(begin, at, end, known, owner)
            elif kind == _GROUP:
                at = self._pass_group(at, end, owner)
            else:
                at += _fixed_size(kind)
        if at > end:
            raise _MalformedError

    def _enter(self, at: int, end: int, known: _Field, owner: _Owner) -> None:
        """Counts what has the length of its bytes before it, and goes into it."""
        counts, place = owner
        index = None
        if known.is_repeated:
            index = counts.get(known, 0)
            self._count(self._packed_count(at, end, known.width), known, owner)
            counts = {} if known.fields else counts
        elif known.limit:
            self._count(end - at, known, owner)
        if known.fields and end - at > known.skipped_bytes:
            self.walk(at, end, known.fields, (counts, (place, known.name, index)))

    def _pass_run(self, begin: int, at: int, end: int, known: _Field, owner: _Owner) -> int:
        """Counts an entry that is not packed, from `begin` to `at`, and those behind it; returns where they end."""
        match = known.run.match(self._data, begin, end) if known.run else None
        # There is none for a tag that takes more bytes than it must, which protobuf accepts.
        run_end = max(at, match.end() if match else at)
        # Of each entry the tag and the value end with a byte below 128.
        count = self._ended_count(begin, run_end) // 2
        self._count(count, known, owner)
        self._count_tags(count // RUN, (owner[0], (owner[1], known.name, None)))
        return run_end

    def _pass_group(self, at: int, end: int, owner: _Owner) -> int:
        """Returns where a group ends that has begun before `at`. No message of ours has any: nothing in it is known."""
        depth = 1
        while depth:
            self._count_tags(1, owner)
            tag, at = self._varint(at, end)
            kind = tag & 7
            if kind == _LEN:
                size, at = self._varint(at, end)
                at += size
            elif kind == _VARINT:
                _, at = self._varint(at, end)
            elif kind in {_GROUP, _END_GROUP}:
                depth += 1 if kind == _GROUP else -1
            else:
                at += _fixed_size(kind)
        return at

    def _packed_count(self, at: int, end: int, width: int | None) -> int:
        if width is None:
            return 1
        return (end - at) // width if width else self._ended_count(at, end)

    def _ended_count(self, at: int, end: int) -> int:
        """Varints that end between two places."""
        return len(self._data[at:end].translate(None, _CONTINUED))

    def _count(self, count: int, known: _Field, owner: _Owner) -> None:
        counts, place = owner
        counts[known] = count = count + counts.get(known, 0)
        if known.limit is not None and count > known.limit.most:
            raise _TooManyError(too_many(_path((place, known.name, None)), known.limit))

    def _count_tags(self, count: int, owner: _Owner) -> None:
        self._tags += count
        if self._tags > MAX_TAGS:
            text = f"must have at most {MAX_TAGS} fields in all, with lists of numbers packed; has more"
            raise _TooManyError(out_of_range(_path(owner[1]), text))

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at a place, and where it ends."""
        data = self._data
        if at < end and (first := data[at]) < 0x80:
            return first, at + 1
        if at + 1 < end and (second := data[at + 1]) < 0x80:
            return data[at] & 0x7F | second << 7, at + 2
        value = 0
        for index in range(at, min(end, at + _MAX_VARINT_BYTES)):
            byte = data[index]
            value |= (byte & 0x7F) << 7 * (index - at)
            if byte < 0x80:
                return value, index + 1
        raise _MalformedError


def _fixed_size(kind: int) -> int:
    if kind == _I64:
        return 8
    if kind == _I32:
        return 4
    raise _MalformedError
