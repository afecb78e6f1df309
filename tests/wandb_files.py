"""Reading back what wandb wrote offline."""

from __future__ import annotations

import importlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def records(folder: Path) -> list[Any]:
    """The records of the only `.wandb` file under a folder: a 7-byte header, then LevelDB's log format."""
    pb: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (path,) = folder.glob("wandb/*/*.wandb")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    found, offset, body = [], 7, b""
    while offset + 7 <= len(content):
        if 32768 - offset % 32768 < 7:
            offset += 32768 - offset % 32768
            continue
        length, kind = struct.unpack("<HB", content[offset + 4 : offset + 7])
        body += content[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):
            found.append(pb.Record.FromString(body))
            body = b""
    return found


def of_kind(kind: str, found: list[Any]) -> list[Any]:
    return [getattr(record, kind) for record in found if record.WhichOneof("record_type") == kind]


def values(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    return [values(row.item) for row in of_kind("history", records(folder))]


@dataclass(frozen=True)
class OfflineRun:
    name: str
    entity: str
    config: dict[str, Any]
    metrics: set[str]


def read_offline_run(folder: Path) -> OfflineRun:
    """The only run below a run's folder."""
    found = records(folder)
    (run,) = of_kind("run", found)[:1]
    return OfflineRun(run.display_name, run.entity, values(run.config.update), {name for row in history(folder) for name in row})
