"""Who may import whom, and what the line must run without."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN_MAY_USE = {
    "edge.images.conversion",
    "edge.images.method",
    "edge.errors",
    "edge.images.exposure",
    "edge.images.sharpness",
    "edge.images.spread",
    "edge.system.command",
    "edge.system.files",
    "edge.system.names",
    "edge.system.progress",
    "edge.system.text",
    "edge.records",
    "edge.scans.scan",
    "edge.validation.labels",
    "edge.validation.lots",
    "edge.validation.statistics",
}
MAX_LINES = 600

PROGRAMS = ("edge", "train", "export", "demo", "tools")
ALL_MODULES = sorted(path for room in PROGRAMS for path in (ROOT / room).rglob("*.py"))


FOLDERS = {"edge", "train", "export", "tests", "systemd", "demo", "docs", "tools", ".ci"}
LOOSE_FILES = {"pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", ".gitignore"}


def test_the_top_level_holds_what_was_agreed_and_nothing_that_a_program_left_there() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=100)
    if done.returncode:
        pytest.skip("not a git checkout: what is tracked is not known")
    tracked = {Path(name).parts[0] for name in done.stdout.splitlines()}
    assert tracked == FOLDERS | LOOSE_FILES


def test_at_most_five_modules_of_edge_lie_outside_its_rooms() -> None:
    assert len([path for path in (ROOT / "edge").glob("*.py") if path.name != "__init__.py"]) <= 5


OF_SEVERAL_MODULES = {
    "browser",
    "engine_contract",
    "from_scans_to_verdicts",
    "fused_decisions",
    "gpu_commands",
    "placed_gate",
    "reports",
    "transfer_model",
    "trt_contract",
}


def test_tests_lie_where_what_they_test_lies() -> None:
    """`tests/edge/scans/test_scan_refusals.py` tests `edge/scans/scan.py`: the module's name, perhaps an aspect."""
    lost = []
    for program in ("edge", "train", "export"):
        for path in sorted((ROOT / "tests" / program).rglob("test_*.py")):
            room, name = ROOT / path.parent.relative_to(ROOT / "tests"), path.stem.removeprefix("test_")
            words = name.split("_")
            fits = any((room / f"{'_'.join(words[:count])}.py").exists() for count in range(1, len(words) + 1))
            if not fits and (name not in OF_SEVERAL_MODULES or not room.is_dir()):
                lost.append(str(path.relative_to(ROOT)))
    assert lost == []


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def imports_of(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return frozenset(names)


def modules_of(room: str) -> list[Path]:
    return [path for path in ALL_MODULES if path.relative_to(ROOT).parts[0] == room]


def importers_of(room: str, packages: set[str]) -> dict[str, set[str]]:
    """Modules of a room that import any of these packages, and what they import of them."""
    found = {
        module_name(path): {name for name in imports_of(path) if name.split(".")[0] in packages}
        for path in modules_of(room)
    }
    return {name: imported for name, imported in found.items() if imported}


def test_edge_imports_nothing_that_learns_or_exports() -> None:
    assert importers_of("edge", {"torch", "torchvision", "train", "export", "onnx"}) == {}


def test_train_uses_only_the_pure_part_of_edge() -> None:
    importers = importers_of("train", {"edge", "export"})
    assert importers
    assert {name: used - TRAIN_MAY_USE for name, used in importers.items() if used - TRAIN_MAY_USE} == {}


def test_no_module_outgrows_its_reader() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_MODULES}
    assert len(lines) > 300, "the walk no longer finds the modules"
    assert {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > MAX_LINES} == {}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def arrows_within(room: str) -> dict[str, set[str]]:
    """Each module of a room and those it imports, anywhere in it: for types alone and inside functions too."""
    names = {module_name(path): path for path in modules_of(room)}
    arrows: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in nodes_of(path):
            if isinstance(node, ast.Import):
                arrows[name] |= {alias.name for alias in node.names} & names.keys()
            elif isinstance(node, ast.ImportFrom) and node.module in names:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                arrows[name] |= (inner & names.keys()) or {node.module}
    return arrows


@pytest.mark.parametrize("program", ["edge", "train", "export", "tools"])
def test_no_imports_go_in_a_circle(program: str) -> None:
    try:
        TopologicalSorter(arrows_within(program)).prepare()
    except CycleError as error:
        pytest.fail("circle of imports: " + " -> ".join(reversed(error.args[1])))


def test_what_opens_a_model_imports_the_engines_and_not_the_other_way_round() -> None:
    order = list(TopologicalSorter(arrows_within("edge")).static_order())
    engines = (
        "edge.engines",
        "edge.engines.golden",
        "edge.engines.tensorrt.open",
        "edge.engines.choose",
        "edge.pipeline.loaded_model",
    )
    assert [name for name in order if name in engines] == list(engines)


FLOW_OF_EDGE = (
    "system",
    "scans",
    "images",
    "station",
    "contract",
    "model",
    "store",
    "mqtt",
    "engines",
    "evidence",
    "pipeline",
    "daemon",
)
"""The rooms of edge/ as a scan passes them: each may use those before it, and these modules beside them:"""
BESIDE_THE_ROOMS = {"edge", "edge.records", "edge.errors", "edge.settings"}


def test_arrows_between_the_rooms_of_edge_point_down() -> None:
    for name, imported in arrows_within("edge").items():
        room = name.split(".")[1] if "." in name else ""
        if room in FLOW_OF_EDGE:
            below = {*FLOW_OF_EDGE[: FLOW_OF_EDGE.index(room) + 1]}
            wrong = {other for other in imported - BESIDE_THE_ROOMS if other.split(".")[1] not in below}
            assert not wrong, f"{name} imports {sorted(wrong)}"


SHARED = "shared"
"""Stands for the modules that lie in train/ beside its rooms; every room may use them."""
ROOMS_OF_TRAIN = {
    "simulator": {SHARED},
    "second_simulator": {SHARED},
    SHARED: set(),
    "classifier": {SHARED, "simulator"},
    "gate": {SHARED, "simulator"},
    "pretraining": {SHARED, "simulator", "second_simulator", "classifier"},
    "papers": {SHARED, "classifier", "gate"},
    "commands": {SHARED, "simulator", "second_simulator", "classifier", "gate", "pretraining", "papers"},
}


def test_arrows_between_the_rooms_of_train_point_down() -> None:
    for name, imported in arrows_within("train").items():
        room = room_of_train(name)
        others = {room_of_train(other) for other in imported} - {room}
        assert others <= ROOMS_OF_TRAIN[room], f"{name} imports {sorted(imported)}"


def test_nothing_but_the_command_line_imports_the_papers() -> None:
    importers = {
        module_name(path)
        for room in ("edge", "train", "export")
        for path in modules_of(room)
        if any(name.startswith("train.papers") for name in imports_of(path)) and "papers" not in path.parts
    }
    assert all(room_of_train(name) == "commands" for name in importers), importers


def room_of_train(name: str) -> str:
    first = name.split(".")[1] if "." in name else ""
    if first == "cli":
        return "commands"
    return first if (ROOT / "train" / first / "__init__.py").exists() and first else SHARED


DESK_MAY_USE = (
    "system",
    "contract",
    "store.requests",
    "evidence.record",
    "evidence.colours",
    "validation.labels",
    "validation.statistics",
)


def test_the_desk_sees_evidence_and_the_drop_box_and_nothing_of_the_line_sees_the_desk() -> None:
    for name, imported in arrows_within("edge").items():
        outside = imported - BESIDE_THE_ROOMS
        if name.startswith("edge.desk"):
            allowed = tuple(f"edge.{room}" for room in ("desk", *DESK_MAY_USE))
            assert {other for other in outside if not other.startswith(allowed)} == set(), name
        else:
            assert not any(other.startswith("edge.desk") for other in outside), name


def test_only_the_page_of_the_desk_needs_a_web_server() -> None:
    assert importers_of("edge", {"starlette", "uvicorn"}).keys() == {"edge.desk.app"}


def test_only_one_folder_needs_what_comes_with_an_nvidia_gpu() -> None:
    libraries = {"tensorrt", "pycuda"}
    users = {path for path in modules_of("edge") if {name.split(".")[0] for name in imports_of(path)} & libraries}
    assert users and {path.parent for path in users} == {ROOT / "edge" / "engines" / "tensorrt"}


def test_only_settings_reads_the_environment() -> None:
    readers = [
        path.name
        for path in modules_of("edge")
        if any(word in path.read_text(encoding="utf-8") for word in ("os.environ", "os.getenv", "getenv("))
    ]
    assert readers == ["settings.py"]


def test_only_thread_entry_and_main_catch_every_exception() -> None:
    catchers = {
        path.name
        for path in ALL_MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    }
    assert catchers <= {"app.py", "cli.py", "command.py"}


def test_all_of_edge_imports_where_only_the_base_install_exists() -> None:
    """A fresh interpreter that refuses whatever is not in the base install, as a line PC would."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules_of("edge")]
    extras = {"edge.desk.app"} | {
        f"edge.engines.{name}" for name in ("ov", "tensorrt.engine", "tensorrt.log", "tensorrt.build_plan")
    }
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "torchvision", "onnx", "openvino", "tensorrt", "pycuda", "train", "export",
                                   "amqtt", "starlette", "uvicorn", "scipy", "sklearn", "matplotlib", "pytest"}}:
            raise ImportError("not in the base install: " + name)
sys.meta_path.insert(0, Refuse())
import importlib
for name in {[name.removesuffix(".__init__") for name in modules if name not in extras]!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", ["train.cli", "train.simulator.simulate", "train.second_simulator.simulate", "export.cli"]
)
def test_commands_that_need_no_torch_start_without_it(module: str) -> None:
    program = f"import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_the_base_install_names_every_library_edge_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    import_names = {"opencv-python": "cv2", "paho-mqtt": "paho", "pydantic-settings": "pydantic_settings"}
    names = [requirement.split(">=")[0] for requirement in project["dependencies"]]
    installed = {import_names.get(name, name) for name in names}
    used = {name.split(".")[0] for path in modules_of("edge") for name in imports_of(path)}
    third_party = (
        used
        - set(sys.stdlib_module_names)
        - {"edge"}
        - {"openvino", "tensorrt", "pycuda", "fsspec", "ray", "starlette", "uvicorn"}
    )
    assert third_party - installed - {"pydantic_core"} == set()
    assert installed - third_party <= {"tifffile"}
