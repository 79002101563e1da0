// Vectors, small dense products and what else is done to rows of numbers: what fused_kernels.cpp
// computes with. Matrices are row-major; a width is how far a row stands from the next. Each element
// of a product is summed in the order of the depth, wherever it falls in a tile, so how a product is
// cut changes no bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// --- vectors -------------------------------------------------------------------------------------

// Lanes of a vector, and how many vectors a tile of a product has in a row and in all: as the sums of
// a tile, a row of the right matrix and a number of the left one fit into 32 or (AVX, SSE) 16 registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, MOST_VECTORS = 4, MOST_SUMS = 24;
#elif defined(__AVX__)
constexpr int LANES = 8, MOST_VECTORS = 2, MOST_SUMS = 12;
#elif defined(__SSE__)
constexpr int LANES = 4, MOST_VECTORS = 2, MOST_SUMS = 12;
#else
constexpr int LANES = 4, MOST_VECTORS = 4, MOST_SUMS = 24;
#endif
template <int COUNT>
struct Lanes {
    typedef float Vector __attribute__((vector_size(COUNT * 4)));
};
typedef Lanes<LANES>::Vector Vector;
typedef int32_t IntVector __attribute__((vector_size(LANES * 4)));

template <class Any = Vector>
inline Any load(const float* from) {
    Any value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
template <class Any>
inline void store(float* to, Any value) {
    std::memcpy(to, &value, sizeof value);
}
inline int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES * LANES; }
inline Vector fill(float value) { return value - Vector{}; }
// True in the first `count` lanes.
inline IntVector first_lanes(int64_t count) {
    IntVector lane;
    for (int i = 0; i < LANES; ++i) lane[i] = i;
    return lane < static_cast<int32_t>(count);
}

// e^x, x being brought between the bounds first, to within two units in the last place; NaN stays NaN.
inline Vector exponential(Vector x, float least = -87.0f, float most = 88.0f) {
    x = x < least ? fill(least) : x;
    x = x > most ? fill(most) : x;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    const Vector whole = (x * 1.44269504f + magic) - magic;
    const Vector rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Vector sum = fill(1.9875691500e-4f);
    sum = sum * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    const IntVector power = (__builtin_convertvector(whole, IntVector) + 127) << 23;
    Vector scale;
    std::memcpy(&scale, &power, sizeof scale);
    return sum * scale;
}
// tanh x: `far` holds it to rounding away from zero, and a series to rounding of itself near zero.
inline Vector near_zero_or(Vector x, Vector far) {
    const Vector square = x * x;
    Vector near_zero = fill(-5.70498872745e-3f);
    near_zero = near_zero * square + 2.06390887954e-2f;
    near_zero = near_zero * square - 5.37397155531e-2f;
    near_zero = near_zero * square + 1.33314422036e-1f;
    near_zero = near_zero * square - 3.33332819422e-1f;
    near_zero = near_zero * square * x + x;
    return square < 0.390625f ? near_zero : far;
}
inline Vector hyperbolic_tangent(Vector x) {
    return near_zero_or(x, 1.0f - 2.0f / (1.0f + exponential(2.0f * x)));
}

// --- products ------------------------------------------------------------------------------------

// What a product starts from and how it ends.
enum class Start { zero, add, row, rows };  // nothing, what is there, one row, a row for each sample
struct Ending {
    Start start = Start::zero;
    const float* row = nullptr;      // Start::row, or the table of Start::rows
    const int32_t* index = nullptr;  // Start::rows: which row of the table, for each row
    int64_t stride = 0;              // of that table
    bool rectify = false;            // max(0, .), keeping NaN
};

template <class Any>
inline Any rectified(Any value) {
    return value < 0 ? Any{} : value;
}

// A matrix that is only read: element (i, k) stands at data[i * row + k * column].
struct Matrix {
    const float* data;
    int64_t row, column;
};
inline Matrix plain(const float* data, int64_t width) { return {data, width, 1}; }
inline Matrix transposed(const float* data, int64_t width) { return {data, 1, width}; }

// Unrolled before anything else, so that the sums of a tile are registers from first to last.
#define EACH_ROW _Pragma("GCC unroll 16") for (int i = 0; i < ROWS; ++i)
#define EACH_VECTOR _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; ++v)

alignas(64) constexpr float NOTHING[MOST_VECTORS * LANES] = {};

// ROWS rows of so many vectors, and of REST columns more: none, or half a vector.
template <int ROWS, int VECTORS, int REST>
inline void tile(Matrix a, const float* b, int64_t b_width, float* c, int64_t c_width,
                 int64_t depth, const Ending& ending, int64_t first_row, int64_t first_column) {
    using Rest = typename Lanes<REST ? REST : LANES>::Vector;
    constexpr int BEHIND = VECTORS * LANES;
    Vector sum[ROWS][VECTORS ? VECTORS : 1];
    Rest rest[ROWS];
    EACH_ROW {
        const float* from = NOTHING;
        if (ending.start == Start::add) from = c + i * c_width;
        if (ending.start == Start::row) from = ending.row + first_column;
        if (ending.start == Start::rows)
            from = ending.row + ending.index[first_row + i] * ending.stride + first_column;
        EACH_VECTOR sum[i][v] = load(from + v * LANES);
        if constexpr (REST > 0) rest[i] = load<Rest>(from + BEHIND);
    }
    for (int64_t k = 0; k < depth; ++k) {
        Vector right[VECTORS ? VECTORS : 1];
        Rest right_rest{};
        EACH_VECTOR right[v] = load(b + k * b_width + v * LANES);
        if constexpr (REST > 0) right_rest = load<Rest>(b + k * b_width + BEHIND);
        EACH_ROW {
            const float left = a.data[i * a.row + k * a.column];
            EACH_VECTOR sum[i][v] += left * right[v];
            if constexpr (REST > 0) rest[i] += left * right_rest;
        }
    }
    if (ending.rectify) EACH_ROW {
        EACH_VECTOR sum[i][v] = rectified(sum[i][v]);
        if constexpr (REST > 0) rest[i] = rectified(rest[i]);
    }
    EACH_ROW {
        EACH_VECTOR store(c + i * c_width + v * LANES, sum[i][v]);
        if constexpr (REST > 0) store(c + i * c_width + BEHIND, rest[i]);
    }
}

template <int ROWS, int VECTORS, int REST>
void tiles(int64_t& i, int64_t rows, Matrix a, const float* b, int64_t b_width, float* c,
           int64_t c_width, int64_t depth, const Ending& ending, int64_t column) {
    if constexpr (ROWS * (VECTORS + (REST > 0)) <= MOST_SUMS)
        for (; i + ROWS <= rows; i += ROWS)
            tile<ROWS, VECTORS, REST>({a.data + i * a.row, a.row, a.column}, b, b_width,
                                      c + i * c_width, c_width, depth, ending, i, column);
}

constexpr int64_t DEEPEST = 128;      // of a product in one go: its panel fits the first-level cache
constexpr int64_t ROWS_TO_PACK = 24;  // from how many rows on, and from which width on, a packed
constexpr int64_t WIDE = 64;          // panel pays

template <int VECTORS, int REST = 0>
void panel(int64_t rows, Matrix a, const float* b, int64_t b_width, float* c, int64_t c_width,
           int64_t depth, const Ending& ending, int64_t column) {
    constexpr int WIDTH = VECTORS * LANES + REST;
    // Rows that stand far apart would fall on the same few places of the cache: copied side by side.
    alignas(64) float packed[DEEPEST * WIDTH];
    if (rows >= ROWS_TO_PACK && b_width > WIDE && depth <= DEEPEST) {
        for (int64_t k = 0; k < depth; ++k) std::memcpy(packed + k * WIDTH, b + k * b_width, WIDTH * 4);
        b = packed;
        b_width = WIDTH;
    }
    int64_t i = 0;
    tiles<12, VECTORS, REST>(i, rows, a, b, b_width, c, c_width, depth, ending, column);
    tiles<6, VECTORS, REST>(i, rows, a, b, b_width, c, c_width, depth, ending, column);
    tiles<4, VECTORS, REST>(i, rows, a, b, b_width, c, c_width, depth, ending, column);
    tiles<2, VECTORS, REST>(i, rows, a, b, b_width, c, c_width, depth, ending, column);
    tiles<1, VECTORS, REST>(i, rows, a, b, b_width, c, c_width, depth, ending, column);
}

// The last columns, fewer than a vector: padded copies, so that nothing is read or written beyond.
void narrow_panel(int64_t rows, int64_t columns, Matrix a, const float* b, int64_t b_width,
                  float* c, int64_t c_width, int64_t depth, const Ending& ending, int64_t column) {
    constexpr int64_t DEPTH = 128, ROWS = 12;
    float right[DEPTH * LANES], sums[ROWS * LANES], starts[ROWS * LANES];
    int32_t own[ROWS];
    const size_t bytes = columns * sizeof(float);
    std::memset(right, 0, sizeof right);
    std::memset(sums, 0, sizeof sums);
    std::memset(starts, 0, sizeof starts);
    for (int64_t k = 0; k == 0 || k < depth; k += DEPTH) {
        const int64_t piece = depth - k < DEPTH ? depth - k : DEPTH;
        for (int64_t p = 0; p < piece; ++p)
            std::memcpy(right + p * LANES, b + (k + p) * b_width, bytes);
        for (int64_t i = 0; i < rows; i += ROWS) {
            const int64_t height = rows - i < ROWS ? rows - i : ROWS;
            Ending inner = ending;
            inner.rectify = ending.rectify && k + piece >= depth;
            for (int64_t r = 0; r < height; ++r) {
                const float* from = nullptr;
                if (k > 0 || ending.start == Start::add) from = c + (i + r) * c_width;
                else if (ending.start == Start::row) from = ending.row + column;
                else if (ending.start == Start::rows)
                    from = ending.row + ending.index[i + r] * ending.stride + column;
                if (from) std::memcpy(starts + r * LANES, from, bytes);
                own[r] = static_cast<int32_t>(r);
            }
            if (k > 0 || ending.start != Start::zero) {
                inner.start = Start::rows;
                inner.row = starts;
                inner.index = own;
                inner.stride = LANES;
            }
            panel<1>(height, {a.data + i * a.row + k * a.column, a.row, a.column}, right, LANES,
                     sums, LANES, piece, inner, 0);
            for (int64_t r = 0; r < height; ++r)
                std::memcpy(c + (i + r) * c_width, sums + r * LANES, bytes);
        }
    }
}

// C (rows, columns) = start + A (rows, depth) B (depth, columns), perhaps rectified.
void product_in_one_go(int64_t rows, int64_t columns, int64_t depth, Matrix a, const float* b,
                       int64_t b_width, float* c, int64_t c_width, const Ending& ending) {
    int64_t j = 0;
    if constexpr (MOST_VECTORS >= 4)
        for (; j + 4 * LANES <= columns; j += 4 * LANES)
            panel<4>(rows, a, b + j, b_width, c + j, c_width, depth, ending, j);
    for (; j + 2 * LANES <= columns; j += 2 * LANES)
        panel<2>(rows, a, b + j, b_width, c + j, c_width, depth, ending, j);
    constexpr int HALF = LANES / 2;
    if (columns - j == LANES + HALF)
        return panel<1, HALF>(rows, a, b + j, b_width, c + j, c_width, depth, ending, j);
    for (; j + LANES <= columns; j += LANES)
        panel<1>(rows, a, b + j, b_width, c + j, c_width, depth, ending, j);
    // A compiler may round the products of half a vector alone in a row where it fuses those of any
    // other, so rows are taken two at a time and one that is left over goes the way of a few columns.
    const int64_t pairs = columns - j == HALF ? rows / 2 * 2 : 0;
    if (pairs > 0) panel<0, HALF>(pairs, a, b + j, b_width, c + j, c_width, depth, ending, j);
    if (j == columns || pairs == rows) return;
    Ending own = ending;
    if (own.index) own.index += pairs;
    narrow_panel(rows - pairs, columns - j, {a.data + pairs * a.row, a.row, a.column}, b + j, b_width,
                 c + pairs * c_width + j, c_width, depth, own, j);
}

void product(int64_t rows, int64_t columns, int64_t depth, Matrix a, const float* b,
             int64_t b_width, float* c, int64_t c_width, Ending ending = {}) {
    const bool rectify = ending.rectify;
    for (int64_t k = 0; k == 0 || k < depth; k += DEEPEST) {
        const int64_t piece = std::min(depth - k, DEEPEST);
        if (k > 0) ending.start = Start::add;
        ending.rectify = rectify && k + piece >= depth;
        product_in_one_go(rows, columns, piece, {a.data + k * a.column, a.row, a.column},
                          b + k * b_width, b_width, c, c_width, ending);
    }
}

// A matrix that many products read, laid out panel by panel in the order in which they read it: the
// rows of MOST_VECTORS vectors of columns one after the other, then those of the next columns.
struct Packed {
    const float* data;
    int64_t depth;  // rows of the matrix; columns are whole vectors
};

inline int64_t vectors_of_panel(int64_t columns) {
    return MOST_VECTORS >= 4 && columns >= 4 * LANES ? 4 : columns >= 2 * LANES ? 2 : 1;
}

void pack(int64_t depth, int64_t columns, const float* from, int64_t width, float* to) {
    for (int64_t j = 0, vectors; j < columns; j += vectors * LANES) {
        vectors = vectors_of_panel(columns - j);
        for (int64_t k = 0; k < depth; ++k, to += vectors * LANES)
            std::memcpy(to, from + k * width + j, vectors * LANES * sizeof(float));
    }
}

// C (rows, columns) = start + A (rows, depth) B, B being rows first .. first + depth - 1 of a packed
// matrix. No cuts in the depth: the panel comes from the second-level cache as fast as it is used.
void product(int64_t rows, int64_t columns, int64_t first, int64_t depth, Matrix a, Packed b,
             float* c, int64_t c_width, const Ending& ending = {}) {
    for (int64_t j = 0, vectors; j < columns; j += vectors * LANES) {
        vectors = vectors_of_panel(columns - j);
        const int64_t width = vectors * LANES;
        const float* from = b.data + j * b.depth + first * width;
        if constexpr (MOST_VECTORS >= 4)
            if (vectors == 4) panel<4>(rows, a, from, width, c + j, c_width, depth, ending, j);
        if (vectors == 2) panel<2>(rows, a, from, width, c + j, c_width, depth, ending, j);
        if (vectors == 1) panel<1>(rows, a, from, width, c + j, c_width, depth, ending, j);
    }
}

// C (rows, columns) [+]= A^T B over many samples: in pieces that fit the first-level cache.
void product_over_samples(int64_t rows, int64_t columns, int64_t samples, const float* a,
                          int64_t a_width, const float* b, int64_t b_width, float* c,
                          int64_t c_width, bool add = false) {
    constexpr int64_t PIECE = 64;
    Ending ending;
    for (int64_t n = 0; n == 0 || n < samples; n += PIECE) {
        ending.start = add || n > 0 ? Start::add : Start::zero;
        product(rows, columns, samples - n < PIECE ? samples - n : PIECE,
                transposed(a + n * a_width, a_width), b + n * b_width, b_width, c, c_width, ending);
    }
}

const Ending ADD{Start::add};

// --- transposing ---------------------------------------------------------------------------------

// Every other lane from `a`, then from `b`: of their lower halves, of their upper halves.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define MODEVAL_SHUFFLES
#if defined(__AVX512F__)
inline Vector zip_low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Vector zip_high(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif defined(__AVX__)
inline Vector zip_low(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
inline Vector zip_high(Vector a, Vector b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
inline Vector zip_low(Vector a, Vector b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
inline Vector zip_high(Vector a, Vector b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#endif
#endif
#endif

// Transpose a square of LANES x LANES; zipping the halves of the rows log2(LANES) times does it.
inline void transpose_square(const float* from, int64_t from_width, float* to, int64_t to_width) {
#ifdef MODEVAL_SHUFFLES
    Vector rows[LANES], zipped[LANES];
    for (int i = 0; i < LANES; ++i) rows[i] = load(from + i * from_width);
    for (int stage = 1; stage < LANES; stage *= 2) {
        for (int i = 0; i < LANES / 2; ++i) {
            zipped[2 * i] = zip_low(rows[i], rows[i + LANES / 2]);
            zipped[2 * i + 1] = zip_high(rows[i], rows[i + LANES / 2]);
        }
        for (int i = 0; i < LANES; ++i) rows[i] = zipped[i];
    }
    for (int i = 0; i < LANES; ++i) store(to + i * to_width, rows[i]);
#else
    for (int i = 0; i < LANES; ++i)
        for (int j = 0; j < LANES; ++j) to[j * to_width + i] = from[i * from_width + j];
#endif
}

// to (columns, rows) = from^T
void transpose(int64_t rows, int64_t columns, const float* from, int64_t from_width, float* to,
               int64_t to_width) {
    const int64_t whole_rows = rows / LANES * LANES, whole_columns = columns / LANES * LANES;
    for (int64_t i = 0; i < whole_rows; i += LANES)
        for (int64_t j = 0; j < whole_columns; j += LANES)
            transpose_square(from + i * from_width + j, from_width, to + j * to_width + i, to_width);
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j)
            to[j * to_width + i] = from[i * from_width + j];
}
void transpose(int64_t rows, int64_t columns, const float* from, float* to) {
    transpose(rows, columns, from, columns, to, rows);
}

// Pack the transpose of a matrix whose rows are whole vectors in number.
void pack_transposed(int64_t rows, int64_t columns, const float* from, int64_t width, float* to) {
    for (int64_t i = 0, count; i < rows; i += count, to += count * columns) {
        count = vectors_of_panel(rows - i) * LANES;
        transpose(count, columns, from + i * width, width, to, count);
    }
}

// --- row by row ----------------------------------------------------------------------------------

// Add rows that stand `width` apart to `sum`, a few vectors of columns at a time in registers.
void add_rows(int64_t rows, int64_t columns, const float* from, int64_t width, float* sum) {
    constexpr int VECTORS = 4;
    int64_t j = 0;
    for (; rows > 1 && j + VECTORS * LANES <= columns; j += VECTORS * LANES) {
        Vector total[VECTORS];
        EACH_VECTOR total[v] = load(sum + j + v * LANES);
        for (int64_t i = 0; i < rows; ++i)
            EACH_VECTOR total[v] += load(from + i * width + j + v * LANES);
        EACH_VECTOR store(sum + j + v * LANES, total[v]);
    }
    for (int64_t i = 0; i < rows && j < columns; ++i)
        for (int64_t k = j; k < columns; ++k) sum[k] += from[i * width + k];
}
void add_rows(int64_t rows, int64_t columns, const float* from, float* sum) {
    add_rows(rows, columns, from, columns, sum);
}

void keep_where_positive(int64_t count, const float* units, float* gradient) {
    for (int64_t i = 0; i < count; ++i) gradient[i] = units[i] > 0 ? gradient[i] : 0.0f;
}

void softmax_rows(int64_t rows, int64_t columns, float* logits) {
    for (int64_t i = 0; i < rows; ++i, logits += columns) {
        float largest = logits[0], sum = 0;
        for (int64_t j = 1; j < columns; ++j) largest = logits[j] > largest ? logits[j] : largest;
        for (int64_t j = 0; j < columns; ++j) sum += logits[j] = std::exp(logits[j] - largest);
        for (int64_t j = 0; j < columns; ++j) logits[j] /= sum;
    }
}

// From the gradient of the weights to that of the logits, in place.
void softmax_rows_back(int64_t rows, int64_t columns, const float* weight, float* gradient) {
    for (int64_t i = 0; i < rows; ++i, weight += columns, gradient += columns) {
        float mean = 0;
        for (int64_t j = 0; j < columns; ++j) mean += weight[j] * gradient[j];
        for (int64_t j = 0; j < columns; ++j) gradient[j] = weight[j] * (gradient[j] - mean);
    }
}

// The upper half of the lanes onto the lower half, until one is left.
template <int COUNT>
inline float sum_of_lanes(typename Lanes<COUNT>::Vector value) {
    if constexpr (COUNT == 1) {
        return value[0];
    } else {
        typename Lanes<COUNT / 2>::Vector halves[2];
        std::memcpy(halves, &value, sizeof value);
        return sum_of_lanes<COUNT / 2>(halves[0] + halves[1]);
    }
}
inline float sum_of_lanes(Vector value) { return sum_of_lanes<LANES>(value); }

inline float dot(int64_t count, const float* a, const float* b) {
    int64_t i = 0;
    float total = 0;
    if (count >= LANES) {
        Vector sum{};
        for (; i + LANES <= count; i += LANES) sum += load(a + i) * load(b + i);
        total = sum_of_lanes(sum);
    }
    for (; i < count; ++i) total += a[i] * b[i];
    return total;
}

}  // namespace
