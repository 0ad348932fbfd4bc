"""Stand-in for Apple's ModelRunner app: answers the requests that coremltools leaves in the app's folder.

A prediction of a model takes a time that grows with its weights, 1 ms per 10 kB, so that tests know what to expect.
`$PHONE/crash` holds a byte count: loading a model with so many bytes of weights ends the app, as a lack of memory does;
`refuse` the same, but Core ML says no. The first load waits for as many seconds as `slow` says.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

phone = Path(sys.argv[1])
requests = phone / "container/Documents/modelrunnerd/requests"
responses = phone / "container/Documents/modelrunnerd/responses"
models: dict[str, int] = {}


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("weight.bin"))


def threshold(name: str) -> float:
    path = phone / name
    return float(path.read_text()) if path.exists() else float("inf")


def answer(method: str, params: dict, resource: Path | None) -> tuple[dict, bytes | None]:
    model = params["modelID"]
    if method == "MLModelService.Load":
        size = weight_bytes(resource)
        if (phone / "slow").exists():
            seconds = float((phone / "slow").read_text())
            (phone / "slow").unlink()
            time.sleep(seconds)
        if size >= threshold("crash"):
            os._exit(1)
        if size >= threshold("refuse"):
            raise ValueError("Error in declaring network.")
        models[model] = size
        (phone / "loaded").write_text(str(max(len(models), int((phone / "loaded").read_text() or 0))))
        return {"modelID": model, "duration": 5_000_000}, None
    if method == "MLModelService.Prediction":
        if (phone / "unplug").exists():
            (phone / "gone").touch()
            os._exit(0)
        for given in params["inputs"].values():
            assert given["dataType"] in ("Float16", "Float32"), given
        output = {"shape": [1], "strides": [1], "dataType": "Float16", "storage": {"offset": 0, "size": 2}}
        return {"modelID": model, "outputs": {"output": output}, "duration": 100 * models[model]}, b"\0\0"
    del models[model]
    return {"modelID": model}, None


shutil.rmtree(requests, ignore_errors=True)  # of a run before, which may have ended in a crash
(phone / "loaded").write_text("0")
seen: set[str] = set()
while phone.exists():
    for message in requests.glob("messages/*/message.json"):
        request = json.loads(message.read_text())
        if request["id"] in seen:
            continue
        seen.add(request["id"])
        name = request.get("resource")
        folder = responses / f".{request['id']}"
        folder.mkdir(parents=True)
        reply = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            resource = requests / "resources" / request["id"] / name if name else None
            reply["result"], data = answer(request["method"], request["params"], resource)
            if data is not None:
                (folder / "data.bin").write_bytes(data)
                reply["resource"] = "data.bin"
        except ValueError as error:
            reply["error"] = {"code": -32000, "message": str(error)}
        (folder / "message.json").write_text(json.dumps(reply))
        folder.rename(responses / request["id"])
    time.sleep(0.005)
