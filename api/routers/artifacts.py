"""What a job made: its files one by one, or all in one archive."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from api.dependencies import CallerDep, ServicesDep, strict_query
from api.stored import stored_response
from api.zipping import zip_stream
from opensloth.accounts.callers import Caller
from opensloth.errors import NotFound
from opensloth.jobs.views import Artifact, Page
from opensloth.services import Services

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["jobs"], dependencies=[Depends(strict_query)])


@router.get("")
def list_artifacts(job_id: str, services: ServicesDep, caller: CallerDep) -> Page[Artifact]:
    """The files of the job's result; none before it has succeeded."""
    found = _stored(services, job_id, caller)
    return Page.of(found, key="name")


@router.head("/all.zip", include_in_schema=False)
@router.get("/all.zip", response_class=Response)
def download_all(request: Request, job_id: str, services: ServicesDep, caller: CallerDep) -> Response:
    """All files of the result in one ZIP archive."""
    found = _stored(services, job_id, caller)
    if not found:
        raise _no_result(job_id)
    headers = {"Content-Disposition": f'attachment; filename="{job_id}.zip"'}
    if request.method == "HEAD":
        return Response(media_type="application/zip", headers=headers)
    entries = [(f"{job_id}/{artifact.name}", f"{_key(job_id)}/{artifact.name}") for artifact in found]
    return StreamingResponse(zip_stream(services.storage, entries), media_type="application/zip", headers=headers)


@router.head("/{name:path}", include_in_schema=False)
@router.get("/{name:path}", response_class=Response)
def download_artifact(request: Request, job_id: str, name: str, services: ServicesDep, caller: CallerDep) -> Response:
    """One file of the result; answers range requests, its ETag is the SHA-256."""
    found = _stored(services, job_id, caller)
    if not found:
        raise _no_result(job_id)
    # Only names that the manifest lists are looked up: nothing that a client sends becomes a path.
    artifact = next((artifact for artifact in found if artifact.name == name), None)
    if artifact is None:
        raise NotFound(f"the job {job_id} made no file {name[:128]!r}", hint="GET .../artifacts lists them")
    return stored_response(
        request,
        services.storage,
        f"{_key(job_id)}/{artifact.name}",
        size=artifact.bytes,
        sha256=artifact.sha256,
        filename=artifact.name.rsplit("/", 1)[-1],
    )


def _stored(services: Services, job_id: str, caller: Caller) -> list[Artifact]:
    services.jobs.state(job_id, caller)
    listed = services.storage.list_tree(_key(job_id)) or []
    return [Artifact(name=file.name, bytes=file.bytes, sha256=file.sha256) for file in listed]


def _key(job_id: str) -> str:
    return f"jobs/{job_id}/artifacts"


def _no_result(job_id: str) -> NotFound:
    return NotFound(f"the job {job_id} has no result yet", code="no_result", hint="only a job that succeeded has one")
