from tools import canary, runtimes


def test_limits_go_and_markers_and_the_limits_of_the_build_stay():
    text = '# Text.\npyspark>=4\ntensorflow-cpu==2.21.0 ; platform_machine == "x86_64"\ncmake<4\n\nkeras\n'
    assert canary.requirements(text) == {
        "pyspark": "pyspark",
        "tensorflow-cpu": 'tensorflow-cpu ; platform_machine == "x86_64"',
        "cmake": "cmake<4",
        "keras": "keras",
    }


def test_the_package_in_the_way_is_what_is_left_of_uvs_message():
    message = (
        "  x No solution found when resolving dependencies:\n"
        "  +-> Because petastorm>=0.13.1 depends on setuptools<70 and you require\n"
        "      petastorm==0.13.1, we can conclude that you require setuptools<70.\n"
    )
    assert canary.reason(message) == "petastorm>=0.13.1 depends on setuptools<70"


def test_the_table_of_runtimes_has_a_column_for_each_record():
    record = {
        "commit": "0a1b2c3",
        "date": "2026-12-01",
        "versions": {"python": "3.12.1", "pyspark": "4.0.0", "tensorflow": "2.19.0"},
        "tests": {"passed": 1500, "failed": ["tests.unit.test_x::test_y"], "skipped": {"no GPU": 2}},
        "trainings": [{"accuracy": 0.9943, "rows_per_second": 8627.4, "first_step": seconds} for seconds in (9.0, 8.0, 27.14)],
    }
    text = runtimes.table({"local": record, "dbr-17.3-ml": record})
    assert "|  | newest | 17.3 LTS ML |" in text
    assert "| Spark | 4.0.0 | 4.0.0 |" in text
    assert "| commit | 0a1b2c3 | 0a1b2c3 |\n| date | 2026-12-01 | 2026-12-01 |" in text
    assert "| tests passed | 1,500 | 1,500 |" in text
    assert "| accuracy of three seeds, % | 99.43, 99.43, 99.43 | 99.43, 99.43, 99.43 |" in text
    assert "| rows/s, median | 8,627 | 8,627 |" in text
    assert "| first step after, s, median | 9.0 | 9.0 |" in text
    assert "- no GPU" in text
    assert "- 17.3 LTS ML: tests.unit.test_x::test_y" in text
