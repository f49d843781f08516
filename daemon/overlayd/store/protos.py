"""etcd's messages, as python-etcd3 describes them, on today's protobuf.

python-etcd3 0.12 ships modules that protoc 3.x generated; protobuf ≥ 4 refuses to load them ("Descriptors cannot be
created directly"). The serialized descriptors inside are still good, so `install` reads them out of the modules'
compiled constants, without running the modules, and puts modules built from them into `sys.modules` before etcd3 looks.
Works from source, from bytecode, and from a PyInstaller archive, whose loader has `get_code` too.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from types import CodeType, ModuleType

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

PACKAGE = "etcd3.etcdrpc"
# In the order of their imports: rpc.proto imports the other two.
FILES = ("kv", "auth", "rpc")
# Field numbers of `fragment`, which came with etcd 3.4: a large watch response comes in parts. Older servers ignore it.
_NEWER = {"WatchCreateRequest": 8, "WatchResponse": 7}


def install() -> None:
    """Make `import etcd3` work. Harmless when called again."""
    if f"{PACKAGE}.rpc_pb2" in sys.modules:
        return
    # A pool of its own: the default one may be used by others in this process.
    pool = descriptor_pool.DescriptorPool()
    for stem in FILES:
        name = f"{PACKAGE}.{stem}_pb2"
        sys.modules[name] = _build(name, _serialized_descriptor(name, f"{stem}.proto"), pool)


def _serialized_descriptor(module: str, proto: str) -> bytes:
    root = importlib.util.find_spec("etcd3")
    if root is None or root.submodule_search_locations is None:
        raise ImportError("python-etcd3 is not installed")
    folders = [f"{place}/etcdrpc" for place in root.submodule_search_locations]
    spec = PathFinder.find_spec(module, folders)
    loader = spec.loader if spec else None
    get_code = getattr(loader, "get_code", None)
    code = get_code(module) if get_code else None
    if code is None:
        raise ImportError(f"{module} of python-etcd3 has no code to read its descriptor from")
    # A FileDescriptorProto begins with field 1 (name), length-delimited.
    magic = b"\n" + bytes([len(proto)]) + proto.encode()
    for constant in _constants(code):
        raw = constant.encode("latin-1", "ignore") if isinstance(constant, str) else constant
        if raw.startswith(magic):
            return raw
    raise ImportError(f"{module} of python-etcd3 holds no descriptor of {proto}")


def _constants(code: CodeType) -> Iterator[str | bytes]:
    for constant in code.co_consts:
        if isinstance(constant, str | bytes):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _constants(constant)


def _build(name: str, serialized: bytes, pool: descriptor_pool.DescriptorPool) -> ModuleType:
    described = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    for one in described.message_type:
        if one.name in _NEWER:
            kind, label = (
                descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
                descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            )
            one.field.add(name="fragment", number=_NEWER[one.name], type=kind, label=label)
    # gogoproto and the HTTP annotations are not needed, and their .proto files are not installed.
    kept = [path for path in described.dependency if path.split("/")[-1] in {f"{stem}.proto" for stem in FILES}]
    del described.dependency[:]
    described.dependency.extend(path.split("/")[-1] for path in kept)
    pool.Add(described)
    file = pool.FindFileByName(described.name)
    module = ModuleType(name)
    contents: dict[str, object] = {"DESCRIPTOR": file}
    for message, descriptor in file.message_types_by_name.items():
        contents[message] = message_factory.GetMessageClass(descriptor)
    for enum, enum_descriptor in file.enum_types_by_name.items():
        contents[enum] = enum_type_wrapper.EnumTypeWrapper(enum_descriptor)
        contents.update({value.name: value.number for value in enum_descriptor.values})
    vars(module).update(contents)
    return module
