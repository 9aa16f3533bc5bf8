"""Can people open what a run left, with the tools they have? The one-liners of the README, and joins across stages.

    check_run.py RUN

RUN is a finished run folder. Prints the type of the image column.
"""

import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset

run = Path(sys.argv[1])


def check(what, found, wanted):
    if found != wanted:
        sys.exit(f"{what}: {found!r}, expected {wanted!r}")


last = sorted((run / "distill").iterdir())[-1].name

# pyarrow: a folder of samples is a data set of tensors.
table = pyarrow.dataset.dataset(str(run / "invert" / last / "samples")).to_table()
image_type = table.schema.field("image").type
check("pyarrow: is a tensor", isinstance(image_type, pa.FixedShapeTensorType), True)
check("pyarrow: shape", list(image_type.shape), [3, 32, 32])
images = table.column("image").combine_chunks().to_numpy_ndarray()
check("pyarrow: as an array", images.shape, (table.num_rows, 3, 32, 32))
check("pyarrow: the images differ", bool((images != images[0]).any()), True)

# DuckDB: every member of the buffer has its image, its labels agree, and the class counts are those of the table beside it.
buffer, samples = f"'{run}/balance/{last}/buffer.parquet'", f"'{run}/invert/*/samples/*.parquet'"
members, joined = duckdb.sql(f"""
    select (select count(*) from {buffer}),
           count(*) filter (b.teacher_class = s.teacher_class and b.teacher_confidence = s.teacher_confidence)
    from {buffer} b join {samples} s using (sample_id)
""").fetchall()[0]
check("DuckDB: members with their image", joined, members)
counted = duckdb.sql(f"select teacher_class, count(*) from {buffer} group by all order by all").fetchall()
listed = duckdb.sql(f"select class, count from '{run}/balance/{last}/classes.parquet' where count > 0 order by class")
check("DuckDB: class counts", counted, listed.fetchall())

# Polars: all rounds at once; every draw was seen by the student, and is of a member.
steps = pl.scan_parquet(run / "distill" / "*" / "steps.parquet").select("loss", "agreement").collect()
check("Polars: losses are above 0", steps.select((pl.col("loss") > 0).all()).item(), True)
draws = pl.read_parquet(run / "sample" / last / "draws.parquet")
observed = pl.read_parquet(run / "distill" / last / "observed.parquet")
check("Polars: what was drawn was seen", draws.join(observed, on=["step", "slot", "sample_id"]).height, draws.height)
members = pl.read_parquet(run / "balance" / last / "buffer.parquet")
check("Polars: draws are of members", draws.join(members, on="sample_id", how="semi").height, draws.height)

print(image_type)
