"""Cache memory at fixed addresses, and the loop that replays captured graphs."""

from collections.abc import Sequence

class View:
    """A tensor over an arena's memory, for `from_dlpack`; it and what is made of it keep the
    arena's memory alive. Asks for what cannot be honoured (a copy, another device, a sleeping
    arena) end in BufferError."""

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class Arena:
    """Equal slots at fixed addresses, 256-byte aligned, on the host (device -1) or a GPU.

    Thread-safe: `sleep`, `wake` and `poison` exclude each other and every `GraphLoop.launch`.
    Other uses of the views by other threads (host code, GPU work launched elsewhere) are theirs to
    order, and to tell of by `used_on`: giving memory back waits for what was told, and for nothing
    else on the device, where a wait would end the captures of other threads.

    Raises: ValueError for a bad size or device, MemoryError, RuntimeError where CUDA cannot serve.
    """

    def __init__(self, num_slots: int, slot_bytes: int, device: int = -1) -> None: ...
    def view(self, slot: int, shape: Sequence[int], dtype: str) -> View:
        """One slot, contiguous, as much of it as the shape covers.

        `dtype` is float16, bfloat16, float32 or float64.
        """

    def all_slots(self, shape: Sequence[int], dtype: str) -> View:
        """[num_slots, *shape], the first stride being the arena's `stride_bytes`."""

    def sleep(self) -> None:
        """Give the memory back and keep the addresses; nothing happens when asleep.

        Waits for what uses it first. Views read as zeros on the host until `wake`; on a GPU any
        access is an error that ends the process's use of the device.
        """

    def wake(self) -> None:
        """Take memory again at the same addresses; nothing happens when awake.

        The contents are lost. Raises: MemoryError where there is too little; it still sleeps.
        """

    def poison(self) -> None:
        """Set every byte to 0xFF, which is NaN in each dtype; waits for what uses it, and for the
        write."""

    def used_on(self, stream: int) -> None:
        """What a stream (its address) has been given until now uses the slots.

        Calls for several streams add up. Nothing happens where the stream is being captured.
        Raises: ValueError on the host.
        """

    @property
    def base(self) -> int: ...
    @property
    def device(self) -> int: ...
    @property
    def num_slots(self) -> int: ...
    @property
    def slot_bytes(self) -> int: ...
    @property
    def stride_bytes(self) -> int:
        """From one slot to the next: `slot_bytes` rounded up to 256."""

    @property
    def reserved_bytes(self) -> int:
        """All slots, rounded up to the allocator's granularity."""

    @property
    def mapped_bytes(self) -> int:
        """`reserved_bytes` while awake (host pages arrive at first touch), 0 while asleep."""

    @property
    def awake(self) -> bool: ...
    @property
    def allocations(self) -> int:
        """How many times physical memory was taken: 1, and 1 more for each wake."""

    @property
    def sleeps(self) -> int: ...
    @property
    def wakes(self) -> int: ...
    @property
    def live_views(self) -> int:
        """Tensors made from this arena that are still alive."""

class GraphLoop:
    """Launches captured graphs (CUgraphExec handles) one after the other with the GIL released.

    The handles stay their owner's, who keeps them alive. `arenas` are those the graphs use: they
    are kept alive, awake during a launch, and a launch while one sleeps is a RuntimeError. One
    loop launches for one thread at a time; a graph in two loops is its owner's to serialise.
    """

    def __init__(
        self, device: int, graphs: Sequence[int], arenas: Sequence[Arena] = ...
    ) -> None: ...
    def launch(self, stream: int, first: int = 0, count: int | None = None) -> None:
        """Enqueue graphs [first, first + count) on a stream (its address; 0 is the default one)."""

    def __len__(self) -> int: ...
    @property
    def device(self) -> int: ...

class LtProduct:
    """y = gelu(x w^T + bias) of one shape by cuBLASLt, on a device that is the current one.

    `shape` is (rows, columns, inner), `types` (cudaDataType, cublasComputeType_t), `workspace` the
    bytes that an algorithm may use, `most` how many to ask for, of whose first `cut_first` versions
    with a cut inner dimension are tried.  GELU is the tanh form.
    Raises: ValueError for a bad shape; RuntimeError with the library's status where it fails.
    """

    def __init__(
        self,
        device: int,
        shape: tuple[int, int, int],
        types: tuple[int, int],
        bias: bool,
        gelu: bool,
        workspace: int,
        most: int,
        cut_first: int,
    ) -> None: ...
    @property
    def algorithms(self) -> list[list[int]]:
        """Their names, of ten numbers each, the library's favourite first."""

    def run(
        self, algorithm: int, x: int, weight: int, bias: int, y: int, workspace: int, stream: int
    ) -> None:
        """Enqueue the product by the algorithm of that index on a stream; addresses are unchecked,
        but for their alignment to 16 bytes, the workspace's to 256."""

def cublas_lt_version() -> int:
    """Of the cuBLASLt that this process has loaded.  Raises: RuntimeError where there is none."""

def upload_graph(device: int, graph: int, stream: int) -> None:
    """Bring a captured graph (its address) to its device, which its first launch does otherwise."""

def arena_bytes(num_slots: int, slot_bytes: int, granularity: int) -> tuple[int, int]:
    """(stride_bytes, reserved_bytes) of an arena, without making it."""

def row_pass(
    x: tuple[int, int],
    narrow: tuple[bool, bool],
    shape: tuple[int, int, int],
    terms: Sequence[
        tuple[Sequence[int], Sequence[float], int, int, int, tuple[int, int, int, int]]
    ],
    norm: tuple[int, float, int, int, int, int, int],
    places: tuple[int, int],
    threads: int,
    lanes: Sequence[int] = (),
) -> None:
    """Add terms to a residual stream and normalise it, row by row in float32; unchecked addresses.

    `x` is (read, written), `narrow` whether (x, values) are bfloat16, `shape` (rows, rows of a
    batch, width).  A term is (sources, coefficients, gate, elements from gate to gate, store,
    operand): x += gate * value with value = sum coefficient * source, and store = value; no
    coefficients for one source as it is.  Of coefficients there is a row for each lane up to the
    highest of `lanes`, which are those of each batch, or all the first.  An operand, (scale,
    elements from token to token, shift, the same of it), makes sum * (1 + scale) + shift of a sum
    with coefficients.  `norm` is (h, epsilon, weight, bias, shift,
    scale, elements from shift to shift).  Gates and what norms are made of are float32; 0 stands
    for what is not there.
    With `places` (int64 [rows], rows of a batch of x), without terms, row r is normed of row
    places[r] of its batch.
    """

def attention(
    tensors: tuple[int, int, int, int],
    received: int,
    shape: tuple[int, int, int, int],
    strides: tuple[int, int, int],
    scale: float,
    narrow: bool,
    threads: int,
) -> None:
    """softmax(scale q k^T) v of float32 tensors (q, k, v, out) at unchecked addresses, or where
    `narrow` of bfloat16 ones, with sums in float32.

    q, k and v are [batch, tokens, heads, head] of `shape` with `strides` in elements, the last one
    1; out is [batch, tokens, heads * head].  `received`, or 0, is float32 [batch, heads, parts,
    tokens]: what each token gets of the softmax's rows, summed over a part of the queries.
    """

def attention_parts(tokens: int) -> int:
    """The parts of so many queries, see `attention`."""

def score_tokens(parts: int, scores: int, shape: tuple[int, int, int]) -> None:
    """scores = the sum over the parts as a vector of length 1, of float32 tensors [samples, parts,
    tokens] (`shape`) and [samples, tokens] at unchecked addresses."""

def choose_tokens(
    tensors: tuple[int, int, int],
    shape: tuple[int, int, int],
    age: tuple[float, float],
    side: int,
    bonus: float,
) -> None:
    """The tokens of the largest scores + weight * (age / unit), at unchecked addresses.

    `tensors` are scores and ages, float32 [samples, tokens], and where the places go in rising
    order, int64 [samples, count]; `shape` is (samples, tokens, count), `age` (weight, unit).  Then
    all ages grow by 1, and those of the chosen are 0.  With a `side` the largest sum in each cell
    of 2 x 2 of the last side * side tokens is multiplied by 1 + bonus.
    """

def scatter_rows(
    rows: int, out: int, places: int, shape: tuple[int, int, int], row_bytes: int
) -> None:
    """Rows [samples, count] to their places among [samples, tokens], at unchecked addresses;
    `places` is int64 [samples, count], `shape` (samples, count, tokens)."""

def few_rows(
    tensors: tuple[int, int, int, int],
    shape: tuple[int, int, int],
    out_stride: int,
    threads: int,
) -> None:
    """out = x weight^T + bias of float32 tensors (x, weight, bias or 0, out), addresses unchecked.

    `shape` is (rows, inner, columns), of columns a multiple of 4; x [rows, inner] and weight
    [columns, inner] are contiguous, the rows of out are `out_stride` elements apart.  Every number
    is summed in one order, whatever the other rows and the threads.
    """

def checksum(address: int, nbytes: int, threads: int) -> int:
    """A number that changes with the bytes, read on so many threads."""

def wait_for_event(device: int, event: int) -> None:
    """Wait for an event (its address) on a device, also from a thread that captures a graph."""

def cuda_available() -> bool:
    """Whether a driver opens and shows a GPU; makes no CUDA context."""
