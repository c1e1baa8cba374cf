"""The same work as Apache Spark jobs: an oracle for what our stages give (`parity`), and peers of the bench (`alone`).

Written from the definitions of our tables, in Spark's own idiom (DataFrames, window functions, broadcast joins).
Nothing here calls our code but `parity`, which runs our stages to compare with. docs/spark.md tells more.
"""
