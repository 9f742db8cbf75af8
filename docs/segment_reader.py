"""Prints the entries of segments, see segment-format.md (codecs none and zstd). Usage: segment_reader.py FILE..."""
# ruff: noqa: E401, E701, E704, I001, B905, SIM115
import functools, sys, zlib
from itertools import accumulate
import msgpack, zstandard
inflate, formats = {"none": bytes, "zstd": zstandard.ZstdDecompressor().decompress}, {}
unpack = functools.partial(msgpack.unpackb, strict_map_key=False, unicode_errors="surrogateescape")
def column(col, n, size):  # gives n values as bytes
    form, body = col[:2]
    if form == 0: return [body] * n
    if form in (2, 4): return [body[i] if form == 4 else body[i * size : i * size + size] for i in col[2]]
    if form == 5:
        lengths = integers(body, n, 4)
        return [col[2][end - length : end] for end, length in zip(accumulate(lengths), lengths)]
    if form == 6: return [b"".join(row) for row in zip(*(column(c, n, size // len(body)) for c in body))]
    rows = [bytes(p if isinstance(p, int) else p[i] for p in body) for i in range(n)]
    sums = accumulate(int.from_bytes(row, "little") for row in rows)
    return rows if form == 1 else [(v % 256**size).to_bytes(size, "little") for v in sums]
def value(raw, cls, size, signed, count):  # gives an integer, a list of them, or bytes
    if cls == "chars" or (cls != "int" and (size == 1 or len(raw) % size)): return raw
    found = [int.from_bytes(raw[i : i + size], "little", signed=signed) for i in range(0, len(raw), size)]
    return found[0] if (cls, count) == ("int", 1) else found
def integers(col, n, size, signed=False): return [value(v, "int", size, signed, 1) for v in column(col, n, size)]
def fields(columns, specs, n):  # gives the fields of each of an event's n entries
    columns = [[value(v, *s[1:]) for v in column(c, n, s[2] * s[4])] for c, s in zip(columns, specs)]
    return iter([{s[0]: c[i] for s, c in zip(specs, columns)} for i in range(n)])
for _, kind, data, crc in (record for name in sys.argv[1:] for record in msgpack.Unpacker(open(name, "rb"))):
    head = b"\x94\xc4\x04\xf7\x1a\xce\x5e" + bytes((kind, 0xC6)) + len(data).to_bytes(4, "big")
    if crc != zlib.crc32(data, zlib.crc32(head)): sys.exit("damaged")
    body = unpack(data)
    if kind == 2: formats[body["id"]] = unpack(inflate[body["codec"]](body["data"]))
    if kind != 3: continue
    *common, payload = unpack(inflate[body["codec"]](body["cols"]))
    raw = [["raw", "tail", 1, False, 1]]
    kinds = [(formats[key], raw if mode else formats[key]["columns"], n) for key, mode, n in body["kinds"]]
    found, ts = [fields(columns, specs, n) for columns, (_, specs, n) in zip(payload, kinds)], body["t0"]
    widths = (1 + (len(kinds) > 256), 8, 1, 1, 4)
    for k, delta, *rest in zip(*(integers(c, body["n"], w, w == 4) for c, w in zip(common, widths))):
        ts = (ts + delta) % 2**64
        print(ts, body["cpu"], *rest, kinds[k][0]["system"] + ":" + kinds[k][0]["name"], next(found[k]))
