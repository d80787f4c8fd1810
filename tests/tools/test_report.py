"""report: tables that fit, and files that appear whole or not at all."""

from pylayers.tools import report


def table(capsys, rows, **more):
    report.print_table("title", ["name", "a", "b"], rows, **more)
    return capsys.readouterr().out.splitlines()


def test_a_table_ends_where_its_text_ends(capsys):
    assert table(capsys, [["x", "1", ""], ["longer", "", "20"]], caption="one\n\ntwo") == [
        "title",
        "",
        " name    a   b",
        " ─────────────",
        " x       1",
        " longer     20",
        "",
        "one",
        "",
        "two",
    ]


def test_left_columns(capsys):
    assert table(capsys, [["x", "1", "2"]], left=2)[2:5] == [" name  a  b", " ──────────", " x     1  2"]
    assert table(capsys, [["x", "1", "2"]], left=0)[4] == "    x  1  2"


def test_a_name_that_is_too_long_goes_on_in_the_next_line(capsys):
    name = "gradient inception_4a/" + "very_long/" * 20
    lines = table(capsys, [[name, "0.5", "12"], ["short", "1", "2"]])
    assert max(map(len, lines)) <= 100
    assert lines[4].endswith("  0.5  12")
    assert lines[4].removesuffix("  0.5  12").strip() + "".join(line.strip() for line in lines[5:7]) == name
    assert lines[-2].startswith(" short ")


def test_columns_without_room_follow_below(capsys):
    columns = ["layer", "shape", *(f"column {index:02}" for index in range(12))]
    rows = [["weighted softmax", "8×21", *(str(1000 + index) for index in range(12))]]
    report.print_table("title", columns, rows, left=2)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[:2] for line in lines if "layer" in line] == [["layer", "shape"]] * 2
    found = [word for line in lines if "softmax" in line for word in line.split()[3:]]
    assert found == [str(1000 + index) for index in range(12)]


def test_wide_letters_count_twice(capsys):
    lines = table(capsys, [["漢字", "1", "2"], ["abcd", "1", "2"]])
    assert lines[4:6] == [" 漢字  1  2", " abcd  1  2"]
