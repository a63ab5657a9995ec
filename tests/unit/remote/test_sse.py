"""Server-sent events: what is a message and what is not."""

from __future__ import annotations

from opensloth.remote.sse import Message, messages


def test_fields_comments_and_several_data_lines():
    lines = [": hello", "id: 7", "event: log", "data: one", "data:two", "", "data: next", ""]
    assert list(messages(lines)) == [Message("log", "one\ntwo", "7"), Message("message", "next", "7")]


def test_a_message_that_is_cut_off_is_none():
    assert list(messages(["id: 1", "data: whole", "", "id: 2", "data: ha"])) == [Message("message", "whole", "1")]


def test_an_id_alone_is_no_message():
    assert list(messages(["id: 3", "", "data: x", ""])) == [Message("message", "x", "3")]
