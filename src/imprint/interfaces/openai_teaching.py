"""Teaching in the shape of OpenAI's files and fine-tuning jobs: documents go up, an adapter comes out."""

from __future__ import annotations

from asyncio import Lock, to_thread
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Response
from fastapi import Request as HttpRequest
from fastapi.responses import FileResponse
from starlette.datastructures import UploadFile

from imprint.hosting.host import Host
from imprint.hosting.jobs import Job
from imprint.hosting.teaching import Wish
from imprint.interfaces.gate import Tenant
from imprint.interfaces.openai_shapes import ApiError, JobRequest, event_shape, file_shape, job_shape, page

PURPOSES = ("fine-tune", "user_data")
_CHUNK = 1 << 20

After = Annotated[str | None, Query()]
Limit = Annotated[int, Query(ge=1, le=100)]
ManyLimit = Annotated[int, Query(ge=1, le=10_000)]


def router(host: Host) -> APIRouter:
    """Files and jobs."""
    routes = _Routes(host)
    router = APIRouter(prefix="/v1")
    router.add_api_route("/files", routes.upload, methods=["POST"])
    router.add_api_route("/files", routes.files, methods=["GET"])
    router.add_api_route("/files/{id}", routes.file, methods=["GET"])
    router.add_api_route("/files/{id}", routes.remove, methods=["DELETE"])
    router.add_api_route("/files/{id}/content", routes.content, methods=["GET"], response_model=None)
    router.add_api_route("/fine_tuning/jobs", routes.create, methods=["POST"])
    router.add_api_route("/fine_tuning/jobs", routes.jobs, methods=["GET"])
    router.add_api_route("/fine_tuning/jobs/{id}", routes.job, methods=["GET"])
    router.add_api_route("/fine_tuning/jobs/{id}/events", routes.events, methods=["GET"])
    router.add_api_route("/fine_tuning/jobs/{id}/cancel", routes.cancel, methods=["POST"])
    return router


@dataclass(frozen=True)
class _Routes:
    host: Host
    uploading: dict[str, Lock] = field(default_factory=dict)

    # --- files --------------------------------------------------------------------------------

    async def upload(self, tenant: Tenant, http: HttpRequest) -> dict[str, Any]:
        # What is longer than a little goes to the disk as it arrives; one at a time, so that no tenant fills it
        # with files that are not counted yet.
        busy = self.uploading.setdefault(tenant, Lock())
        async with busy, http.form(max_files=1, max_fields=10) as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise ApiError(400, "Send a form with a 'file' and a 'purpose'.", param="file")
            if not isinstance(purpose, str) or purpose not in PURPOSES:
                raise ApiError(400, f"'purpose' must be one of {', '.join(PURPOSES)}.", param="purpose")
            unknown = set(form) - {"file", "purpose"}
            if unknown:
                told = f"Not supported by this server: {', '.join(sorted(unknown))}. Leave it out."
                raise ApiError(400, told, param=min(unknown), code="unsupported_parameter")
            kept = await to_thread(
                self.host.tenants.uploads(tenant).add,
                file.filename or "file",
                purpose,
                _chunks(file.file),
                max_bytes=self.host.settings.file_bytes,
                now=self.host.clock(),
            )
        return file_shape(kept)

    async def files(
        self,
        tenant: Tenant,
        purpose: str | None = None,
        after: After = None,
        limit: ManyLimit = 10_000,
        order: str = "desc",
    ) -> dict[str, Any]:
        found = await to_thread(self.host.tenants.uploads(tenant).list)
        told = [file_shape(upload) for upload in found if purpose in (None, upload.purpose)]
        return page(told if order == "asc" else told[::-1], after, limit)

    async def file(self, tenant: Tenant, id: str) -> dict[str, Any]:
        return file_shape(await to_thread(self.host.tenants.uploads(tenant).get, id))

    async def content(self, tenant: Tenant, id: str) -> Response:
        uploads = self.host.tenants.uploads(tenant)
        kept, file = await to_thread(uploads.get, id), await to_thread(uploads.content, id)
        # Bytes to keep and never to open: a page of HTML must not act in the server's name.
        headers = {"X-Content-Type-Options": "nosniff"}
        return FileResponse(file, media_type="application/octet-stream", filename=kept.name, headers=headers)

    async def remove(self, tenant: Tenant, id: str) -> dict[str, Any]:
        await to_thread(self.host.tenants.uploads(tenant).remove, id)
        return {"id": id, "object": "file", "deleted": True}

    # --- jobs ---------------------------------------------------------------------------------

    async def create(self, tenant: Tenant, asked: JobRequest) -> dict[str, Any]:
        model = await to_thread(self.host.model, tenant, asked.model)
        if model.version is not None:
            told = f"Teaching starts from the base model, {self.host.base.name}. Send all documents that the next "
            raise ApiError(400, f"{told}version is to know, and the adapter's name as 'suffix'.", param="model")
        if asked.integrations:
            told = "'integrations' are not supported by this server. Leave them out."
            raise ApiError(400, told, param="integrations", code="unsupported_parameter")
        wish = Wish(
            files=asked.files,
            name=asked.suffix or None,
            questions=asked.validation_file,
            budget=asked.budget or (asked.metadata or {}).get("budget"),
            seed=asked.seed or 0,
            epochs=asked.chosen.number("n_epochs"),
            lr_factor=asked.chosen.number("learning_rate_multiplier"),
            metadata=tuple((asked.metadata or {}).items()),
        )
        return job_shape(await to_thread(self.host.teaching.add, tenant, wish))

    async def jobs(self, tenant: Tenant, after: After = None, limit: Limit = 20) -> dict[str, Any]:
        found = await to_thread(self.host.tenants.jobs(tenant).list)
        return page([job_shape(job) for job in found], after, limit)

    async def job(self, tenant: Tenant, id: str) -> dict[str, Any]:
        return job_shape(await self._job(tenant, id))

    async def events(self, tenant: Tenant, id: str, after: After = None, limit: Limit = 20) -> dict[str, Any]:
        job = await self._job(tenant, id)
        found = await to_thread(self.host.tenants.jobs(tenant).events, id)
        return page([event_shape(event, job) for event in reversed(found)], after, limit)

    async def cancel(self, tenant: Tenant, id: str) -> dict[str, Any]:
        return job_shape(await to_thread(self.host.teaching.cancel, tenant, id))

    async def _job(self, tenant: str, id: str) -> Job:
        return await to_thread(self.host.tenants.jobs(tenant).get, id)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
