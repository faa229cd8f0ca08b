import keras
import pytest

from keras_lightrnn._internal.inference import view_values


def test_a_view_holds_the_values_of_its_time():
    variable = keras.Variable([3, 1, 4], dtype="int32")
    view = view_values(variable)
    assert view.dtype == "int32"
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 7
    variable.assign([1, 5, 9])
    assert view.tolist() == [3, 1, 4]
    assert view_values(variable).tolist() == [1, 5, 9]
