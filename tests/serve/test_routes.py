# SPDX-License-Identifier: Apache-2.0
"""The routes of the API, one request after the other."""

import json
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kmind.errors import KmindError, PrivilegeError
from kmind.infer.features import Feature
from kmind.infer.model_file import ModelFile
from kmind.runtime.evidence_store import EvidenceStore
from kmind.serve import routes
from kmind.serve.routes import Call, Context
from kmind.testing.models import random_trees

if TYPE_CHECKING:
    from serve.conftest import Served
from serve.asked import _begin, ask


def test_an_instance_from_load_to_unload(served: "Served", disk: str) -> None:
    client = served.client
    assert client.get("/v1/instances")["instances"] == []
    body = {"module": "readahead", "target": disk, "parameters": {"patience": 5}, "mode": "auto"}
    done = client.call("POST", "/v1/instances", body)
    name = f"readahead@{disk}"
    assert done["schema"] == "kmind.change/1"
    assert done["name"] == name
    assert done["result"]["params"]["patience"] == 5
    assert client.get(f"/v1/instances/{name}")["instances"][0]["mode"] == "auto"
    client.call("PUT", f"/v1/instances/{name}/mode", {"mode": "observe"})
    assert client.get("/v1/instances")["instances"][0]["mode"] == "observe"
    assert client.call("POST", f"/v1/instances/{name}/reload")["result"]["generation"] == 2
    assert ask(served, "DELETE", f"/v1/instances/{name}?force=perhaps")[0] == 400
    assert client.call("DELETE", f"/v1/instances/{name}")["result"]["restored"] is True
    assert client.get("/v1/instances")["instances"] == []


def test_a_dry_run_loads_nothing(served: "Served", disk: str) -> None:
    body = {"module": "readahead", "target": disk, "dry_run": True}
    assert served.client.call("POST", "/v1/instances", body)["name"] == f"readahead@{disk}"
    assert served.client.get("/v1/instances")["instances"] == []


def test_experiments(served: "Served", tmp_path: Path) -> None:
    client = served.client
    assert client.get("/v1/experiments") == {"schema": "kmind.why/2", "experiments": []}
    with EvidenceStore(tmp_path / "evidence.db") as store:
        _begin(store, 16)
        _begin(store, 64)
        listed = client.get("/v1/experiments")["experiments"]
        assert [(each["id"], each["candidate"]) for each in listed] == [(2, 64), (1, 16)]
        assert "record" not in listed[0]
        (one,) = client.get("/v1/experiments/1")["experiments"]
        assert (one["candidate"], one["state"], one["record"]) == (16, "running", None)
    for wrong in ("3", "x", "-1", "1" * 40):
        assert ask(served, "GET", f"/v1/experiments/{wrong}")[0] == 404


def test_advice(served: "Served") -> None:
    first = served.do(served.supervisor.advise)
    second = served.do(lambda: served.supervisor.advise(256))
    client = served.client
    assert [each["id"] for each in client.get("/v1/advice")["advice"]] == [second, first]
    assert client.get(f"/v1/advice/{first}")["advice"][0]["reason"] == "Reads are at random."
    assert client.call("POST", f"/v1/advice/{first}/apply")["advice"][0]["state"] == "applied"
    assert client.call("POST", f"/v1/advice/{first}/undo")["advice"][0]["state"] == "undone"
    assert client.call("POST", f"/v1/advice/{second}/reject")["advice"][0]["state"] == "rejected"
    with pytest.raises(KmindError, match="is rejected, so it cannot be applied"):
        client.call("POST", f"/v1/advice/{second}/apply")


def test_findings(served: "Served") -> None:
    client = served.client
    assert client.get("/v1/findings") == {"schema": "kmind.findings/1", "findings": []}
    first = served.do(served.supervisor.find)
    second = served.do(lambda: served.supervisor.find("queue 1"))
    listed = client.get("/v1/findings")["findings"]
    assert {each["id"] for each in listed} == {first, second}
    assert client.get(f"/v1/findings/{first[:6]}")["findings"][0]["subject"] == "vda"
    (row,) = client.call("POST", f"/v1/findings/{first}/ack")["findings"]
    assert (row["id"], row["state"]) == (first, "acknowledged")
    assert client.call("POST", f"/v1/findings/{second}/close")["findings"][0]["state"] == "closed"
    with pytest.raises(KmindError, match="is closed"):
        client.call("POST", f"/v1/findings/{second}/ack")
    assert client.get(f"/v1/findings/{second}")["findings"][0]["why"] == "root has closed it"
    for wrong in ("0000", "x", first[:3], "%25", "1" * 40):
        assert ask(served, "GET", f"/v1/findings/{wrong}")[0] == 404
        assert ask(served, "POST", f"/v1/findings/{wrong}/ack")[0] == 404


def test_reports(served: "Served") -> None:
    client = served.client
    assert client.get("/v1/reports") == {"schema": "kmind.reports/1", "reports": []}
    report = served.do(served.supervisor.file_report)
    (row,) = client.get("/v1/reports")["reports"]
    assert (row["id"], row["files"], "data" in row) == (report, {"a.csv": 3}, False)
    (row,) = client.get(f"/v1/reports/{report}")["reports"]
    assert row["data"] == {"a.csv": "MSwA"}
    assert client.call("DELETE", f"/v1/reports/{report}")["reports"][0]["id"] == report
    assert ask(served, "GET", f"/v1/reports/{report}")[0] == 404
    assert ask(served, "DELETE", f"/v1/reports/{report}")[0] == 404


def test_only_root_settles_findings_and_reports(served: "Served") -> None:
    finding = served.do(served.supervisor.find)
    report = served.do(served.supervisor.file_report)
    context = Context(served.supervisor, None, dict)  # type: ignore[arg-type]
    for handler, key in (
        (routes.acknowledge_finding, finding),
        (routes.close_finding, finding),
        (routes.remove_report, report),
    ):
        for uid in (1000, -1):
            with pytest.raises(PrivilegeError):
                handler(context, Call({"id": key}, uid=uid))
    assert served.client.get("/v1/findings")["findings"][0]["state"] == "open"
    assert len(served.client.get("/v1/reports")["reports"]) == 1


def test_what_is_loaded_already_is_a_conflict(served: "Served", disk: str) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})
    body = json.dumps({"module": "readahead", "target": disk}).encode()
    status, _, problem = ask(served, "POST", "/v1/instances", body, content_type="application/json")
    assert status == 409
    assert problem["hint"] == f"kmind unload readahead@{disk}"


def test_models_are_deployed_and_rolled_back(served: "Served", disk: str) -> None:
    client = served.client
    client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})
    where = f"/v1/instances/readahead@{disk}/model"
    assert client.get(where)["models"] == []
    files = []
    for seed in (1, 2):
        model = random_trees(np.random.default_rng(seed), 600, 6, 3, 2, complete=True)
        names = tuple(Feature(name) for name in ("a", "b", "c"))
        labels = ("x", "y") if model.output.kind == "argmax" else ()
        files.append(ModelFile(model, names, labels))
        body = {"file": b64encode(files[-1].to_bytes()).decode()}
        # Far more than other requests may hold.
        assert len(body["file"]) > 1 << 20
        done = client.call("PUT", where, body)["result"]
        assert done["hash"] == files[-1].hash
    assert done["before"] == files[0].hash
    assert [each["hash"] for each in client.get(where)["models"]] == [
        files[1].hash,
        files[0].hash,
    ]
    assert client.call("POST", where + "/rollback")["result"]["hash"] == files[0].hash


def test_what_is_no_model_is_refused(served: "Served", disk: str) -> None:
    served.client.call("POST", "/v1/instances", {"module": "readahead", "target": disk})
    where = f"/v1/instances/readahead@{disk}/model"
    for text, status in (("aGVsbG8=", 409), ("no base64", 400), ("", 400)):
        body = json.dumps({"file": text}).encode()
        got, _, problem = ask(served, "PUT", where, body, content_type="application/json")
        assert got == status
        assert "\n" not in problem["detail"]
    assert ask(served, "POST", where + "/rollback")[0] == 409
    assert ask(served, "GET", "/v1/instances/none/model")[0] == 404
