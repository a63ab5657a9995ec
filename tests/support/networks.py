"""A second host on this machine: a network namespace with one cable that can be pulled, and what it may reach."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class FarHost:
    """A namespace; `gateway` is the address under which it sees this machine."""

    namespace: str
    cable: str
    gateway: str

    def cut_off(self) -> None:
        """From now on packets get lost, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def rejoin(self) -> None:
        """The cable is in again."""
        _ip("link", "set", self.cable, "up")


@contextlib.contextmanager
def far_host() -> Iterator[FarHost]:
    """A namespace; skips the test where none can be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    name, number = f"sloth-{secrets.token_hex(4)}", secrets.randbelow(250)
    host = FarHost(name, f"v{name[-8:]}", f"10.231.{number}.1")
    try:
        _ip("netns", "add", name)
        _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("address", "add", f"{host.gateway}/24", "dev", host.cable)
        _ip("link", "set", host.cable, "up")
        for command in (
            ["address", "add", f"10.231.{number}.2/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip("-n", name, *command)
    except subprocess.CalledProcessError as error:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    try:
        yield host
    finally:
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def relay(host: str, target: str | tuple[str, int]) -> Iterator[int]:
    """A port on `host` behind which the target answers, a Unix socket or (host, port)."""
    loop = asyncio.new_event_loop()
    started: asyncio.Server = loop.run_until_complete(
        asyncio.start_server(lambda reader, writer: _serve(reader, writer, target), host, 0)
    )
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(started.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_end(started), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str | tuple[str, int]) -> None:
    opened = asyncio.open_unix_connection(target) if isinstance(target, str) else asyncio.open_connection(*target)
    far_reader, far_writer = await opened
    await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
