"""docs/benchmarks.md is what the data gives, and says where the data comes from."""

from experiments import record, tables


def test_the_page_is_what_the_data_gives():
    assert tables.PAGE.read_text() == tables.page(), "run `python -m experiments.tables`"


def test_the_page_of_the_data_sets_has_the_measured_throughput():
    rows, _ = record.load_table(record.RESULTS / "benchmark_input")
    text = (record.ROOT / "docs" / "data.md").read_text()
    assert rows
    for row in rows:
        rate, low, high, ratio, cost = (
            row[column]
            for column in (
                "images_per_second",
                "lowest",
                "highest",
                "ntk_train_to_this",
                "cpu_ms_per_image",
            )
        )
        assert f"| {row['pipeline']} | {rate} | {low} - {high} | {ratio} | {cost} |" in text


def implementation(name, milliseconds, chosen=""):
    cell = {"family": "fcn", "case": "fcn 8", "n": 1, "o": 2, "implementation": name}
    return cell | {"chosen": chosen, "milliseconds": milliseconds, "peak_megabytes": "1"}


def gpu(precision, name, error="", note=""):
    return {
        "case": "vit",
        "network": "ViT",
        "n": 2,
        "o": 3,
        "implementation": name,
        "chosen": "structured" if name == "auto" else "",
        "precision": precision,
        "milliseconds": "1.5",
        "device_milliseconds": "1.2",
        "launches": "9",
        "tflops": "4.5",
        "compile_seconds": "30",
        "temporary_megabytes": "7",
        "relative_error": error,
        **dict.fromkeys(("lambda_max", "lambda_min", "condition", "effective_rank"), error),
        "note": note,
    }


def test_a_page_of_both_tables(tmp_path):
    rows = [
        implementation("auto", "2", "structured"),
        implementation("structured", "2"),
        implementation("nt structured", "3"),
    ]
    record.merge_table("benchmark_implementations", rows, ["family"], tmp_path)
    rows = [
        gpu("highest", "auto", error="1.00e-06"),
        gpu("float64", "structured"),
        gpu("highest", "jacobian_contraction", note="out of memory"),
        gpu("highest", "nt structured") | {"milliseconds": "4.5"},
    ]
    record.merge_table("benchmark_gpu", rows, ["case"], tmp_path)
    text = tables.page(tmp_path)
    assert "| fcn 8, N 1, O 2 | 2 | structured |  | 1.00 | nt structured | 1.50 | 1.00 |" in text
    numbers = "| cpu | auto (structured) | highest | 1.5 | 1.2 | 9 | 4.5 | 30 | 7 | 1.00e-06 |"
    assert f"| ViT | 2 | 3 {numbers}" in text
    assert "jacobian_contraction | highest | 1.5 | 1.2 | 9 | 4.5 | 30 | 7 | out of memory |" in text
    assert "| ViT | 2 | 3 | 4.5 |  | 1.5 (3.00) |  |  |" in text
    assert "| geometric mean of the ratios |  |  |  |  | 3.00 |  |  |" in text
    assert f"| ViT | 2 | 3 | highest | {' | '.join(['1.00e-06'] * 5)} |" in text
    assert "float64 |" not in text
    assert text.count(f"- {record.RUN}: `python -m experiments.") == 2


def test_the_page_counts_the_tests_of_the_peer(tmp_path):
    row = {"cases": 4, "peer": "passed", "ours": "passed", "why": "", "on_purpose": ""}
    rows = [
        row | {"test": "empirical_test.py::A::test_0"},
        row | {"test": "empirical_test.py::A::test_1", "ours": "failed", "on_purpose": "is wrong"},
        row | {"test": "empirical_test.py::AB::test_0", "peer": "skipped", "ours": "skipped"},
    ]
    record.merge_table("peer_tests", rows, ["cases", "test"], tmp_path)
    text = tables.page(tmp_path)
    assert "| empirical_test.py::A | 4 | 2 | 0 | 0 | 1 | 1 | 0 |" in text
    assert "| empirical_test.py::AB | 4 | 0 | 0 | 1 | 0 | 0 | 1 |" in text
    assert "- `empirical_test.py::A::test_1` is wrong" in text


def test_a_page_of_no_data_has_no_tables(tmp_path):
    assert "|" not in tables.page(tmp_path)


def test_the_table_in_the_readme_is_from_the_data():
    rows, _ = record.load_table(record.RESULTS / "benchmark_gpu")
    times = {
        (row["network"], row["n"], row["o"], row["implementation"]): float(row["milliseconds"])
        for row in rows
        if (row["implementation"], row["precision"])
        in (("auto", "float32"), ("nt structured", "highest"))
    }
    lines = (record.ROOT / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| network | N, O |")) + 2
    count = 0
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        network, sizes, *shown = (cell.strip() for cell in line.strip("|").split("|"))
        name = network.removesuffix(", 224 px")
        names = ("auto", "nt structured")
        for implementation, figure in zip(names, shown, strict=True):
            measured = times[name, *sizes.split(", "), implementation]
            assert f"{measured:.1f}" == figure, (network, implementation)
            count += 1
    assert count == 18
