"""Views of word tables: a PNG image, and an interactive HTML page."""

from keras_lightrnn.visualization.table_image import export_table_image
from keras_lightrnn.visualization.table_page import export_table_page

__all__ = ["export_table_image", "export_table_page"]
