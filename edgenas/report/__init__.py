"""What people look at: the front as a table, a picture and a page. It reads; it trains nothing."""

from edgenas.report.front import draw_front, front_rows, point_row
from edgenas.report.page import write_page

__all__ = ["draw_front", "front_rows", "point_row", "write_page"]
