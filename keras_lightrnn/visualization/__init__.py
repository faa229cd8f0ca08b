"""Pictures of a word table: an image, and a page to look around in."""

from keras_lightrnn.visualization.table_image import export_table_image
from keras_lightrnn.visualization.table_page import export_table_page

__all__ = ["export_table_image", "export_table_page"]
