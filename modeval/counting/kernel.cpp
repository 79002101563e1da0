// Counts of sparse routing: what modeval.types.RoutingCounts.of_choices adds up, in one pass over the
// choices. A task is some of the rows and the tables that they are added to; tasks are shared out
// over threads, and each is worked off in order, so the sums do not depend on the threads.
//
// Rows are taken a few hundred at a time: first read, whatever their type, and checked; then counted;
// then, where there are weights, divided and added. Counters are 32 bits wide, so that those of the
// pairs stay in the first-level cache as long as they can; who calls moves them on in time.
//
// Letters: K choices of a row, M modules, cells (block, rule).

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

// As modeval.counting lays them out.
extern "C" struct ModevalTask {
    int64_t first, last;  // rows, or places in `order`
    int64_t modules;
    int64_t choices;      // how many a row is expected to have; others change the two tables below
    int32_t* selections;  // (cells, M)
    int32_t* samples;     // (cells,)
    int32_t* pairs;       // (M, M) two choices of a row, each pair in one of its two places
    double* mass;         // (cells, M) weights; without weights, what differs from 1 / choices each
    double* entropy;      // (cells,) of the weights
    double* spread;       // (cells,) what differs from log(choices) for each row
    int64_t state;        // what was found: a Finding
};
extern "C" struct ModevalCounting {
    int64_t tasks, threads, width, chosen_bytes, weight_bytes, normalise, cells;
    const void* chosen;    // (rows, width) signed, -1 for none
    const void* weight;    // (rows, width), or null
    const int64_t* cell;   // (rows,) `cells` for rows that count nowhere
    const int32_t* order;  // rows by task, or null: as they stand
    const double* logs;    // (width + 1,) log(max(i, 1))
    ModevalTask* task;
};

namespace {

enum Finding : int64_t { sound = 0, choice_out_of_range = 1, weight_no_share = 2 };

constexpr int64_t ROWS = 256;
constexpr int LANES = 8;
typedef double Vector __attribute__((vector_size(LANES * 8)));
typedef int64_t Bits __attribute__((vector_size(LANES * 8)));
typedef uint64_t Unsigned __attribute__((vector_size(LANES * 8)));

template <class To, class From>
inline To same_bits(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// log x of positive normal numbers to a few units in the last place: x = 2^e m with m around 1, and
// log m = 2 artanh(s), s = (m - 1) / (m + 1).
inline Vector logarithm(Vector x) {
    constexpr int64_t ONE = 0x3ff0000000000000, ROOT_OF_HALF = 0x3fe6a09e667f3bcd;
    const Bits bits = same_bits<Bits>(x);
    const Bits power = same_bits<Bits>(same_bits<Unsigned>(bits + (ONE - ROOT_OF_HALF)) >> 52) - 1023;
    const Vector m = same_bits<Vector>(bits - (power << 52));
    const double magic = 6755399441055744.0;  // 1.5 * 2^52: adding a whole number to its bits adds it
    const Vector e = same_bits<Vector>(power + same_bits<int64_t>(magic)) - magic;
    const Vector s = (m - 1.0) / (m + 1.0), z = s * s;
    Vector sum = z * (1.0 / 21) + 1.0 / 19;
    sum = sum * z + 1.0 / 17;
    sum = sum * z + 1.0 / 15;
    sum = sum * z + 1.0 / 13;
    sum = sum * z + 1.0 / 11;
    sum = sum * z + 1.0 / 9;
    sum = sum * z + 1.0 / 7;
    sum = sum * z + 1.0 / 5;
    sum = sum * z + 1.0 / 3;
    return e * 0.69314718055994530942 + (2.0 * s * z * sum + 2.0 * s);
}

inline Vector load(const double* from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
inline double sum_of_lanes(Vector value) {
    double lanes[LANES];
    std::memcpy(lanes, &value, sizeof value);
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}
// Numbers of a type, a vector of them, in a type that is wide enough for them and for 32 bits.
template <class Number>
struct Numbers {
    typedef std::conditional_t<sizeof(Number) == 8, int64_t, int32_t> Wide;
    typedef Number Narrow __attribute__((vector_size(LANES * sizeof(Number))));
    typedef Wide Vector __attribute__((vector_size(LANES * sizeof(Wide))));
};
typedef int32_t Picks __attribute__((vector_size(LANES * 4)));

// Counts rows of WIDTH choices; 0 stands for any number of them.
template <int WIDTH>
struct Counter {
    const ModevalCounting& all;
    const int64_t width;
    bool whole;  // all choices of all rows are modules
    std::vector<int64_t> row, cell;
    std::vector<int32_t> chosen, some;
    std::vector<double> share, term;  // and a vector more, that nobody reads

    explicit Counter(const ModevalCounting& c)
        : all(c), width(WIDTH ? WIDTH : c.width), row(ROWS), cell(ROWS), chosen(ROWS * width),
          some(width), share(c.weight_bytes ? ROWS * width + LANES : 0), term(share.size()) {}

    void run(ModevalTask& task) {
        for (int64_t first = task.first; first < task.last && task.state == sound; first += ROWS) {
            const int64_t rows = std::min(task.last - first, ROWS);
            for (int64_t n = 0; n < rows; ++n) {
                row[n] = all.order ? all.order[first + n] : first + n;
                cell[n] = all.cell[row[n]];
            }
            if (!read_choices(task.modules, rows)) {
                task.state = choice_out_of_range;
                return;
            }
            count(task, rows);
            if (all.weight_bytes == 4) weigh<float>(task, rows);
            if (all.weight_bytes == 8) weigh<double>(task, rows);
        }
    }

    bool read_choices(int64_t modules, int64_t rows) {
        switch (all.chosen_bytes) {
            case 1: return read_as<int8_t>(modules, rows);
            case 2: return read_as<int16_t>(modules, rows);
            case 4: return read_as<int32_t>(modules, rows);
            default: return read_as<int64_t>(modules, rows);
        }
    }
    template <class Number>
    bool read_as(int64_t modules, int64_t rows) {
        typedef typename Numbers<Number>::Vector Wide;
        const int64_t K = WIDTH ? WIDTH : width;
        Wide least_lanes{}, most_lanes = Wide{} - 1;
        int64_t least = 0, most = -1;
        for (int64_t n = 0; n < rows; ++n) {
            const Number* from = static_cast<const Number*>(all.chosen) + row[n] * K;
            int32_t* to = chosen.data() + n * K;
            int64_t k = 0;
            for (; k + LANES <= K; k += LANES) {
                typename Numbers<Number>::Narrow narrow;
                std::memcpy(&narrow, from + k, sizeof narrow);
                const Wide wide = __builtin_convertvector(narrow, Wide);
                least_lanes = wide < least_lanes ? wide : least_lanes;
                most_lanes = wide > most_lanes ? wide : most_lanes;
                const Picks picks = __builtin_convertvector(wide, Picks);
                std::memcpy(to + k, &picks, sizeof picks);
            }
            for (; k < K; ++k) {
                least = std::min<int64_t>(least, from[k]);
                most = std::max<int64_t>(most, from[k]);
                to[k] = static_cast<int32_t>(from[k]);
            }
        }
        for (int lane = 0; lane < LANES; ++lane) {
            least = std::min<int64_t>(least, least_lanes[lane]);
            most = std::max<int64_t>(most, most_lanes[lane]);
        }
        whole = least >= 0;
        return least >= -1 && most < modules;
    }

    void count(ModevalTask& task, int64_t rows) {
        const int64_t M = task.modules, K = WIDTH ? WIDTH : width;
        const bool even = WIDTH && whole && K == task.choices;
        for (int64_t n = 0; n < rows; ++n) {
            const int64_t own = cell[n];
            if (own == all.cells) continue;
            ++task.samples[own];
            if (even)
                count_even(task.selections + own * M, task.pairs, M, chosen.data() + n * K);
            else
                count_any(task, own, chosen.data() + n * K);
        }
    }
    static inline void count_even(int32_t* selections, int32_t* pairs, int64_t M, const int32_t* picks) {
        int64_t pick[WIDTH ? WIDTH : 1];  // 64 bits: no counter is one of these
#pragma GCC unroll 16
        for (int k = 0; k < WIDTH; ++k) pick[k] = picks[k];
#pragma GCC unroll 16
        for (int k = 0; k < WIDTH; ++k) ++selections[pick[k]];
#pragma GCC unroll 16
        for (int k = 0; k < WIDTH; ++k) {
            int32_t* with = pairs + pick[k] * M;
#if defined(__GNUC__)
            asm("" : "+r"(with));  // one address for all of the row: no sums are made anew
#endif
#pragma GCC unroll 16
            for (int other = k + 1; other < WIDTH; ++other) ++with[pick[other]];
        }
    }
    void count_any(ModevalTask& task, int64_t own, const int32_t* picks) {
        const int64_t M = task.modules;
        int64_t taken = 0;
        for (int64_t k = 0; k < width; ++k)
            if (picks[k] >= 0) some[taken++] = picks[k];
        for (int64_t k = 0; k < taken; ++k) {
            ++task.selections[own * M + some[k]];
            int32_t* with = task.pairs + some[k] * M;
            for (int64_t other = k + 1; other < taken; ++other) ++with[some[other]];
        }
        if (taken == task.choices) return;
        task.spread[own] += all.logs[taken] - all.logs[task.choices];
        if (all.weight_bytes) return;
        const auto share_of = [](int64_t count) { return 1.0 / std::max<int64_t>(count, 1); };
        const double difference = share_of(taken) - share_of(task.choices);
        for (int64_t k = 0; k < taken; ++k) task.mass[own * M + some[k]] += difference;
    }

    template <class Number>
    void weigh(ModevalTask& task, int64_t rows) {
        const int64_t M = task.modules, K = WIDTH ? WIDTH : width;
        if (!read_weights<Number>(rows)) {
            task.state = weight_no_share;
            return;
        }
        entropies(rows * K);
        for (int64_t n = 0; n < rows; ++n) {
            if (cell[n] == all.cells) continue;
            double sum = 0;
            for (int64_t k = 0; k < K; ++k) sum += term[n * K + k];
            task.entropy[cell[n]] += sum;
            double* mass = task.mass + cell[n] * M;
            const int32_t* picks = chosen.data() + n * K;
            const double* own = share.data() + n * K;
            if (whole)
                for (int64_t k = 0; k < K; ++k) mass[picks[k]] += own[k];
            else
                for (int64_t k = 0; k < K; ++k)
                    if (picks[k] >= 0) mass[picks[k]] += own[k];
        }
    }
    // Read weights as shares, divided by the sum of their row where that is asked for; false when one
    // is none then.
    template <class Number>
    bool read_weights(int64_t rows) {
        const int64_t K = WIDTH ? WIDTH : width;
        bool shares = true;
        for (int64_t n = 0; n < rows; ++n) {
            const Number* from = static_cast<const Number*>(all.weight) + row[n] * K;
            double* own = share.data() + n * K;
            for (int64_t k = 0; k < K; ++k) own[k] = static_cast<double>(from[k]);
            if (!whole)
                for (int64_t k = 0; k < K; ++k)
                    if (chosen[n * K + k] < 0) own[k] = 0;
            if (!all.normalise) continue;
            double total = sum_of(own);
            shares = shares && total <= 1.7976931348623157e308;
            for (int64_t k = 0; k < K; ++k) shares &= own[k] >= 0;
            total = total > 0 ? total : 1;
            for (int64_t k = 0; k < K; ++k) own[k] /= total;
        }
        return shares;
    }
    inline double sum_of(const double* own) const {
        if (WIDTH == LANES) return sum_of_lanes(load(own));
        double total = 0;
        for (int64_t k = 0; k < (WIDTH ? WIDTH : width); ++k) total += own[k];
        return total;
    }
    // -x log x of each share: 0 at 0, and below it what PyTorch says, too: minus infinity
    void entropies(int64_t count) {
        const Vector least = Vector{} + 2.2250738585072014e-308, none = Vector{} - INFINITY;
        for (int64_t i = 0; i < count; i += LANES) {
            const Vector x = load(share.data() + i);
            const Vector value = -x * logarithm(x < least ? least : x);
            const Vector known = x < 0.0 ? none : value;
            std::memcpy(term.data() + i, &known, sizeof known);
        }
    }
};

template <int WIDTH>
void count_all(const ModevalCounting* counting) {
    std::atomic<int64_t> next{0};
    auto work = [&] {
        Counter<WIDTH> counter(*counting);
        for (int64_t task; (task = next++) < counting->tasks;) counter.run(counting->task[task]);
    };
    std::vector<std::thread> helpers;
    try {
        for (int64_t i = 1; i < std::min(counting->threads, counting->tasks); ++i)
            helpers.emplace_back(work);
    } catch (const std::system_error&) {
        // no more threads to be had: those that there are do the work
    }
    work();
    for (std::thread& helper : helpers) helper.join();
}

}  // namespace

extern "C" void modeval_count(const ModevalCounting* counting) {
    switch (counting->width) {
        case 1: return count_all<1>(counting);
        case 2: return count_all<2>(counting);
        case 4: return count_all<4>(counting);
        case 6: return count_all<6>(counting);
        case 8: return count_all<8>(counting);
        default: return count_all<0>(counting);
    }
}

// Sort rows by group, keeping their order: group g has the places begin[g] .. begin[g + 1] - 1 of
// `order`. Return 0, or 1 when a group is out of range.
extern "C" int modeval_sort(int64_t rows, int64_t groups, const int16_t* group, int32_t* order,
                            int64_t* begin) {
    std::fill(begin, begin + groups + 1, 0);
    for (int64_t n = 0; n < rows; ++n) {
        if (group[n] < 0 || group[n] >= groups) return 1;
        ++begin[group[n] + 1];
    }
    for (int64_t g = 0; g < groups; ++g) begin[g + 1] += begin[g];
    std::vector<int64_t> free(begin, begin + groups);
    for (int64_t n = 0; n < rows; ++n) order[free[group[n]]++] = static_cast<int32_t>(n);
    return 0;
}
