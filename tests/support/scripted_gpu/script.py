"""What the scripted machine is: the JSON in the environment variable SCRIPTED_GPU."""

import json
import os
from typing import Any


def script(name: str, default: Any = None) -> Any:
    """One word of the script; see the modules that ask for it."""
    return json.loads(os.environ.get("SCRIPTED_GPU", "{}")).get(name, default)
