"""Take the README's pictures of ComfyUI's page, on the weights of the demo: `make pictures`.

Needs Node.js, Chromium, and what `make setup` installs to drive it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from .comfy_host import PACK_NAME, ROOT, HostError
from .demo import OUTPUT, WORKFLOW, Demo, DemoError, Settings

SCRIPT = ROOT / "tests" / "support" / "page" / "pictures.mjs"
MODULES = ROOT / ".venv" / "browser"
VALUES = {"width": 96, "height": 96, "seed": 0}


def main() -> int:
    """Writes docs/page.jpg and docs/templates.jpg. Exit code 1, and the reason, without them."""
    try:
        take_pictures()
    except (DemoError, HostError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def take_pictures() -> None:
    demo = Demo(OUTPUT, Settings())
    if not demo.bundle.is_file():
        raise DemoError(f"no {demo.bundle}: run `make demo` first.")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    node = shutil.which("node")
    if chromium is None or node is None:
        raise DemoError("no Chromium or no Node.js here: apt-get install chromium nodejs npm.")
    demo.place_files()
    workflows = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
    nodes = json.loads(workflows[WORKFLOW].read_text("utf-8"))["nodes"]
    with demo.host as host:
        url = host.workflow_url(WORKFLOW)
        command = [
            *(node, str(SCRIPT), str(MODULES), chromium, url, str(len(nodes))),
            *(json.dumps(VALUES), str(ROOT / "docs"), PACK_NAME, *workflows),
        ]
        done = subprocess.run(command, check=False)
    if done.returncode:
        raise DemoError(f"{SCRIPT.name} failed; its message is above.")


if __name__ == "__main__":
    sys.exit(main())
