"""What intrinsics emit with: where arrays lie, loads and stores of single values and whole registers."""

from typing import Any, cast

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.np.arrayobj import make_array

FEATURES = binding.get_host_cpu_features()  # which instructions may be emitted, by name

_INT32 = ir.IntType(32)
_ALIGNMENT = 4  # of most values that kernels work on, and all that is known of a register's worth of them


class Emitter:
    """Emits into the function that is compiled.

    Args:
        context: This and the others are what numba hands to an intrinsic's emitter.
        builder: Where instructions go.
        signature: Of the intrinsic.
        values: Of its arguments.
        alignment: Bytes by which what is loaded and stored is known to be aligned.
    """

    def __init__(self, context: Any, builder: Any, signature: Any, values: Any, *, alignment: int = _ALIGNMENT) -> None:
        self.builder = builder
        self.values = values
        self._context, self._kinds, self._alignment = context, signature.args, alignment

    def array(self, argument: int) -> Any:
        """Return the array that is an argument."""
        made = cast("Any", make_array)(self._kinds[argument])
        return made(self._context, self.builder, self.values[argument])

    def pointer(self, argument: int, at: Any, kind: Any = None) -> Any:
        """Return where a value of an array lies, counted flat in its own values or in those of `kind`."""
        data = self.array(argument).data
        return self.builder.gep(data if kind is None else self.builder.bitcast(data, kind.as_pointer()), [at])

    def load(self, pointer: Any, kind: Any) -> Any:
        """Return what lies at a pointer."""
        loaded = self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()))
        loaded.align = self._alignment
        return loaded

    def store(self, value: Any, pointer: Any) -> None:
        """Write a value of any kind."""
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer())).align = self._alignment

    def everywhere(self, one: Any, kind: Any) -> Any:
        """Return a vector of `kind` with a value in all lanes."""
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, one, ir.Constant(_INT32, 0))
        return self.builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT32, kind.count), None))

    def call(self, name: str, returned: Any, *values: Any) -> Any:
        """Return what a function that the compiler knows makes of some values, mostly by one instruction."""
        kind = ir.FunctionType(returned, [value.type for value in values])
        return self.builder.call(cast("Any", cgutils).get_or_insert_function(self.builder.module, kind, name), values)
