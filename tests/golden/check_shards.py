"""Do pyarrow, DuckDB and Polars read the shards, and see the same numbers as the program that wrote them?

    check_shards.py FOLDER

FOLDER holds samples/ (u8 image shards), floats.parquet (an f32 one with masks), buffer.parquet and expected.json. The test
`arrow_tools_read_the_files` of ssdkd-shards makes it and runs this. Exit code 77: a package is missing.
"""

import json
import sys
from pathlib import Path

try:
    import duckdb
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    print(f"needs pyarrow, duckdb and polars: {error}", file=sys.stderr)
    sys.exit(77)

folder = Path(sys.argv[1])
samples = folder / "samples"
expected = json.loads((folder / "expected.json").read_text())


def check(what, found, wanted):
    close = abs(found - wanted) <= 1e-6 * abs(wanted) if isinstance(wanted, float) else found == wanted
    if not close:
        sys.exit(f"{what}: {found!r}, expected {wanted!r}")


# pyarrow: the extension type, the metadata, and an image as an array (C, H, W).
table = pq.read_table(samples / "part-00000.parquet")
image_type = table.schema.field("image").type
check("pyarrow: is a tensor", isinstance(image_type, pa.FixedShapeTensorType), True)
check("pyarrow: shape", list(image_type.shape), [3, 4, 5])
check("pyarrow: values", image_type.value_type, pa.uint8())
check("pyarrow: dimensions", list(image_type.dim_names), ["C", "H", "W"])
tensor = table.column("image").combine_chunks().to_numpy_ndarray()
check("pyarrow: as an array", tensor.shape, (600, 3, 4, 5))
check("pyarrow: a pixel", int(tensor[1, 2, 3, 4]), (60 + 2 * 20 + 3 * 5 + 4) * 37 % 256)
metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
check("pyarrow: class names", json.loads(metadata["ssdkd.class_names"]), expected["class_names"])
check("pyarrow: normalisation", json.loads(metadata["ssdkd.normalisation"])["mean"], [0.5, 0.4, 0.3])
logits = table.column("teacher_logits").combine_chunks().flatten().to_numpy()
check("pyarrow: logits", float(logits.astype("float64").sum()), expected["logit_sum"])
table = pq.read_table(folder / "floats.parquet")
floats = table.column("image").combine_chunks().to_numpy_ndarray()
check("pyarrow: f32 images", float(floats.astype("float64").sum()), expected["unit_sum"])
masks = table.column("teacher_mask").combine_chunks().to_numpy_ndarray()
check("pyarrow: masks", (masks.shape, int(masks.sum())), ((600, 4, 5), expected["mask_sum"]))

# DuckDB: the folder as one table, and the buffer joined with it.
query = f"""
    select count(*), sum(list_sum(image::int[])) from read_parquet('{samples}/*.parquet')
"""
rows, level_sum = duckdb.sql(query).fetchall()[0]
check("DuckDB: rows", rows, expected["rows"])
check("DuckDB: pixels", int(level_sum), expected["level_sum"])
query = f"""
    select count(*), count(*) filter (b.teacher_class = s.teacher_class)
    from '{folder}/buffer.parquet' b join '{samples}/*.parquet' s using (sample_id)
"""
check("DuckDB: members with an image", duckdb.sql(query).fetchall()[0], (expected["members"], expected["members"]))
query = f"select sum(list_sum(image::double[])) from '{folder}/floats.parquet'"
check("DuckDB: f32 images", duckdb.sql(query).fetchall()[0][0], expected["unit_sum"])

# Polars: the folder as it is. From version 2 on it keeps the extension type, and the values are below it.
frame = pl.read_parquet(samples)
check("Polars: rows", frame.height, expected["rows"])
image = pl.col("image").ext.storage() if hasattr(pl.Expr, "ext") else pl.col("image")
pixels = frame.select(image.cast(pl.Array(pl.Int64, 60)).arr.sum().sum()).item()
check("Polars: pixels", pixels, expected["level_sum"])
buffer = pl.read_parquet(folder / "buffer.parquet")
check("Polars: members with an image", buffer.join(frame, on="sample_id").height, expected["members"])
floats = pl.read_parquet(folder / "floats.parquet")
unit_sum = floats.select(image.cast(pl.Array(pl.Float64, 60)).arr.sum().sum()).item()
check("Polars: f32 images", unit_sum, expected["unit_sum"])
