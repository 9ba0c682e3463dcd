"""Files that people send: kept in memory, as much as is allowed of each, and never on a disk."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from django.core.files.uploadedfile import InMemoryUploadedFile
from django.core.files.uploadhandler import FileUploadHandler

from kubespan.core.documents import LIMIT_BYTES


class InMemory(FileUploadHandler):
    """Keeps the beginning of each file; its `size` is that of the whole, so whoever looks sees that there was more."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        """Begin another file."""
        super().new_file(*args, **kwargs)
        self._kept = BytesIO()

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        """Take more of it, or let it go by."""
        self._kept.write(raw_data[: LIMIT_BYTES - self._kept.tell()])

    def file_complete(self, file_size: int) -> InMemoryUploadedFile:
        """Give what was kept."""
        self._kept.seek(0)
        return InMemoryUploadedFile(
            self._kept, self.field_name, self.file_name or "", self.content_type, file_size, self.charset
        )
