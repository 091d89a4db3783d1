"""Folds what `perf script` prints, sums it by layer, and draws a flame graph as SVG."""

import html
import re

# A sample belongs to the first layer one of whose patterns matches a frame, looked for from the
# innermost frame outwards; the layers of the machine come first, then ours.
SYSTEM = [
    ("system calls and the kernel", re.compile(r"\[k\]|^syscall$|^epoll_wait$|^(__|__GI_)*writev?$")),
    ("allocator", re.compile(r"^_?mi_|mimalloc|rust_alloc|rust_dealloc|rust_realloc")),
]
ENGINE = re.compile(r"redkite_index")
LAYERS = [
    ("engine: walk of the graph, distances", ENGINE),
    ("metrics and spans", re.compile(r"tracing|opentelemetry|metrics|redkite_telemetry")),
    (
        "segment: visibility, hits, reduce",
        re.compile(r"redkite_segment|redkite_querynode::read|redkite_expr"),
    ),
    ("hand over to the CPU pool", re.compile(r"redkite_runtime::cpu|oneshot|parking_lot")),
    (
        "plan and answer in the proxy",
        re.compile(r"redkite_proxy|redkite_proto|redkite_catalog|prost::|serde_json"),
    ),
    ("calls within the process", re.compile(r"redkite_")),
    ("HTTP/2 and gRPC", re.compile(r"\bh2::|hyper|tonic|tower|http_body|\bhttp::|axum|matchit")),
    ("tokio", re.compile(r"tokio|mio::")),
]
MARK = " [k]"


def fold(lines):
    """{(frame, ...): samples}, outermost frame first, from `perf script -F comm,ip,sym,event`."""
    stacks, frames, comm = {}, [], None
    for line in [*lines, ""]:
        if not line.strip():
            if comm is not None and frames:
                key = (comm, *reversed(frames))
                stacks[key] = stacks.get(key, 0) + 1
            frames, comm = [], None
        elif comm is None:
            comm = re.sub(r"-\d+$", "", line.split()[0])
        else:
            address, _, name = line.strip().partition(" ")
            if name == "[unknown]":
                # The end of a stack that is deeper than what was recorded.
                continue
            frames.append(clean(name) + (MARK if address.startswith("ffff") else ""))
    return stacks


def clean(name):
    """A function's name without hashes, generic arguments and closures' numbers."""
    name = re.sub(r"::h[0-9a-f]{16}$", "", name)
    name = re.sub(r"\+0x[0-9a-f]+$", "", name)
    while True:
        shorter = re.sub(r"<[^<>]* as ([^<>]*)>", r"\1", name)
        shorter = re.sub(r"(?<=[A-Za-z0-9_:])<[^<>]*>", "", shorter)
        if shorter == name:
            break
        name = shorter
    return name.replace("::{{closure}}", "{}").replace("::::", "::")[:120]


def layer_of(stack):
    frames = stack[1:]
    for name, pattern in SYSTEM:
        if pattern.search(frames[-1]) or any(pattern.search(frame) for frame in frames[-4:]):
            is_read = name.startswith("system") and any(map(ENGINE.search, frames))
            return "engine: reads of the rows that are scored exactly" if is_read else name
    for frame in reversed(frames):
        for name, pattern in LAYERS:
            if pattern.search(frame):
                return name
    return "other"


def layers(stacks):
    """[(layer, share)], the largest first."""
    sums = {}
    for stack, count in stacks.items():
        layer = layer_of(stack)
        sums[layer] = sums.get(layer, 0) + count
    return shares(sums)


def threads(stacks):
    """[(threads of one name, share)], the largest first."""
    sums = {}
    for stack, count in stacks.items():
        sums[stack[0]] = sums.get(stack[0], 0) + count
    return shares(sums)


def purposes(stacks, patterns):
    """[(purpose, share)] by the first of `patterns`, {purpose: pattern}, that any frame matches."""
    compiled = {name: re.compile(pattern) for name, pattern in patterns.items()}
    sums = {}
    for stack, count in stacks.items():
        matching = (n for n, p in compiled.items() if any(map(p.search, stack[1:])))
        purpose = next(matching, "other")
        sums[purpose] = sums.get(purpose, 0) + count
    return shares(sums)


def own(stacks):
    """[(function, share)] of samples in the function itself, the largest first."""
    sums = {}
    for stack, count in stacks.items():
        sums[stack[-1]] = sums.get(stack[-1], 0) + count
    return shares(sums)


def shares(sums):
    total = sum(sums.values())
    return sorted(((key, count / total) for key, count in sums.items()), key=lambda x: -x[1])


def draw(stacks, title, width=1200, least=0.002):
    """The flame graph; frames narrower than `least` of the whole are left out."""
    total = sum(stacks.values())
    root = {}
    for stack, count in stacks.items():
        node = root
        for frame in stack:
            child = node.setdefault(frame, [0, {}])
            child[0] += count
            node = child[1]
    boxes, deepest = [], 0

    def place(children, left, depth):
        nonlocal deepest
        for name, (count, below) in sorted(children.items()):
            if count / total >= least:
                boxes.append((left, depth, count, name))
                deepest = max(deepest, depth)
                place(below, left, depth + 1)
            left += count

    place(root, 0, 0)
    row = 15
    height = (deepest + 3) * row
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="monospace" font-size="10">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="4" y="12" font-size="12">{html.escape(title)}</text>',
    ]
    for left, depth, count, name in boxes:
        x, w = left / total * width, count / total * width
        y = height - (depth + 1) * row
        label = html.escape(f"{name} {count / total * 100:.1f} %")
        parts.append(
            f'<g><title>{label}</title><rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="14" '
            f'fill="{colour(name)}"/>'
        )
        letters = int(w / 6.2)
        if letters > 3:
            parts.append(f'<text x="{x + 2:.1f}" y="{y + 11}">{html.escape(name[:letters])}</text>')
        parts.append("</g>")
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def colour(name):
    """Kernel grey, engine green, our other code blue, libraries orange."""
    if name.endswith(MARK):
        return "#d0d0d0"
    if re.search(r"redkite_(index|kernel)", name):
        return "#9bd69b"
    if "redkite" in name:
        return "#a8c8f0"
    return "#f5cf9a"
