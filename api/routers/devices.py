"""`/v1/devices`: what the box has, what runs on it, and taking a device out of service and back."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from api.dependencies import CallerDep, ServicesDep, strict_query
from opensloth.jobs.on_devices import DeviceView
from opensloth.jobs.views import Page

router = APIRouter(prefix="/v1/devices", tags=["devices"], dependencies=[Depends(strict_query)])


@router.get("")
def list_devices(services: ServicesDep, caller: CallerDep) -> Page[DeviceView]:
    """Every GPU and CPU slot: what runs on it, its memory and its health. Jobs of other teams have no name."""
    found = services.device_views.all(caller)
    return Page.of(found)


@router.get("/{device_id}")
def get_device(device_id: str, services: ServicesDep, caller: CallerDep) -> DeviceView:
    """One device."""
    return services.device_views.get(device_id, caller)


@router.post("/{device_id}/drain")
def drain_device(device_id: str, services: ServicesDep, caller: CallerDep) -> DeviceView:
    """Keep new jobs from a device; what runs on it goes on. For admins."""
    services.devices.set_draining(device_id, True, caller)
    return services.device_views.get(device_id, caller)


@router.post("/{device_id}/undrain")
def undrain_device(device_id: str, services: ServicesDep, caller: CallerDep) -> DeviceView:
    """Let jobs onto a drained device again. For admins."""
    services.devices.set_draining(device_id, False, caller)
    return services.device_views.get(device_id, caller)


@router.post("/{device_id}/release")
def release_device(device_id: str, services: ServicesDep, caller: CallerDep) -> DeviceView:
    """Put a quarantined device back into service, once what its reason names is mended. For admins."""
    services.devices.release(device_id, caller)
    return services.device_views.get(device_id, caller)
