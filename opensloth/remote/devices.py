"""`client.devices`: the GPUs and CPU slots of the box."""

from __future__ import annotations

import builtins
from urllib.parse import quote

from opensloth.remote.shapes import Device, Page
from opensloth.remote.transport import Transport


class Devices:
    """Everything under `/v1/devices`; draining and releasing are for admins."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> builtins.list[Device]:
        """Every device, by host and index."""
        return Page.read(self._transport.json("GET", "/v1/devices"), Device).data

    def get(self, device_id: str) -> Device:
        """One device."""
        return Device(**self._transport.json("GET", f"/v1/devices/{quote(device_id, safe='')}"))

    def drain(self, device_id: str) -> Device:
        """Keeps new jobs from a device; what runs on it goes on."""
        return self._change(device_id, "drain")

    def undrain(self, device_id: str) -> Device:
        """Lets jobs onto a drained device again."""
        return self._change(device_id, "undrain")

    def release(self, device_id: str) -> Device:
        """Puts a quarantined device back into service."""
        return self._change(device_id, "release")

    def _change(self, device_id: str, what: str) -> Device:
        return Device(**self._transport.json("POST", f"/v1/devices/{quote(device_id, safe='')}/{what}"))
