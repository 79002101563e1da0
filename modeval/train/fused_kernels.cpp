// What the fused kernels of all families share: routing, losses, Adam and the loop over seeds.
// Included by the file of each family, which says what it computes.
//
// Seeds are independent and each is computed by one thread in a fixed order, so the bits of a result
// do not depend on the number of threads. No flag is used that would let a NaN or a sign disappear.

#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "fused_products.cpp"

// One step of a cohort, as modeval.train.fused fills it in; a family reads the sizes that it has.
extern "C" struct ModevalStep {
    int64_t seeds, samples, positions, features, outputs, encoder, rules, modules, hidden, width;
    int64_t heads, routing, classification, threads;
    float clip, rate, mean_correction, square_correction;
    float* parameters[32];  // (S, ...) each, in the family's order; absent ones null
    float* means[32];       // moments of Adam; all null: gradients only
    float* squares[32];
    float* gradients[32];   // where to write gradients; all null: nowhere
    const float* table;     // (R, M) weights of Routing::table
    const int64_t* chosen;  // (R,) modules of Routing::chosen
    const float* inputs;    // (S, N, F) or (S, N, T, F)
    const int64_t* rule;    // (S, N) or (S, N, T)
    const float* target;    // (S, N, D) or (S, N, T, D)
    float* loss;            // (S,)
    const float* given;     // (S, N, M) or (S, N, T, M) weights of Routing::given
    float* d_given;         // where to write the gradient of those
    float* cost;            // (S, N) or (S, N, T): where to write the loss of each; null: nowhere
    float* workspace;       // threads x modeval_workspace()
};

namespace {

// --- routing -------------------------------------------------------------------------------------

// How the weights of modules arise. `chosen`: given, one module for each rule; `table`: given, any
// weights for each rule; `rule`: softmax of a linear map of the rule's encoding; `module`: softmax
// of the modules' own logits; `given`: weights for each row that come from outside, where the
// gradient of the loss by them goes back to.
enum Routing : int64_t { chosen = 0, table = 1, rule = 2, module = 3, given = 4 };

// hidden (N, M, H) -> weight (N, M): softmax of each module's own logit.
void own_weights(int64_t samples, int64_t modules, int64_t units, const float* hidden,
                 const float* logit, const float* bias, float* weight) {
    for (int64_t n = 0; n < samples; ++n)
        for (int64_t m = 0; m < modules; ++m)
            weight[n * modules + m] =
                bias[m] + dot(units, hidden + (n * modules + m) * units, logit + m * units);
    softmax_rows(samples, modules, weight);
}

void own_weights_back(int64_t samples, int64_t modules, int64_t units, const float* hidden,
                      const float* logit, const float* weight, float* d_weight, float* d_logit,
                      float* d_bias, float* d_hidden) {
    softmax_rows_back(samples, modules, weight, d_weight);
    add_rows(samples, modules, d_weight, d_bias);
    for (int64_t n = 0; n < samples; ++n)
        for (int64_t m = 0; m < modules; ++m) {
            const int64_t at = (n * modules + m) * units;
            const float back = d_weight[n * modules + m];
            for (int64_t h = 0; h < units; ++h) {
                d_logit[m * units + h] += back * hidden[at + h];
                d_hidden[at + h] += back * logit[m * units + h];
            }
        }
}

// scaled = hidden (count, units) times one weight for each row
void scale_rows(int64_t count, int64_t units, const float* weight, const float* hidden,
                float* scaled) {
    for (int64_t i = 0; i < count; ++i)
        for (int64_t h = 0; h < units; ++h) scaled[i * units + h] = weight[i] * hidden[i * units + h];
}

// The table (R, M) of a scorer that sends the one-hot rule through two layers with K units between.
struct RuleScorer {
    const float *hidden, *hidden_bias, *readout, *readout_bias;  // biases may be null
};

void table_of_rules(int64_t rules, int64_t between, int64_t modules, const RuleScorer& scorer,
                    float* units, float* table) {
    for (int64_t i = 0; i < rules * between; ++i) {
        const float bias = scorer.hidden_bias ? scorer.hidden_bias[i % between] : 0;
        const float value = scorer.hidden[i] + bias;
        units[i] = value < 0 ? 0 : value;
    }
    Ending ending;
    if (scorer.readout_bias) ending = {Start::row, scorer.readout_bias};
    product(rules, modules, between, plain(units, between), scorer.readout, modules, table, modules,
            ending);
    softmax_rows(rules, modules, table);
}

// From d_table (overwritten) to the gradients, which are zero before; null where there is no bias.
void table_of_rules_back(int64_t rules, int64_t between, int64_t modules, const RuleScorer& scorer,
                         const float* units, const float* table, float* d_table, float* turned,
                         float* d_hidden, float* d_hidden_bias, float* d_readout,
                         float* d_readout_bias) {
    softmax_rows_back(rules, modules, table, d_table);
    product_over_samples(between, modules, rules, units, between, d_table, modules, d_readout,
                         modules);
    if (scorer.readout_bias) add_rows(rules, modules, d_table, d_readout_bias);
    transpose(between, modules, scorer.readout, turned);
    product(rules, between, modules, plain(d_table, modules), turned, between, d_hidden, between);
    keep_where_positive(rules * between, units, d_hidden);
    if (scorer.hidden_bias) add_rows(rules, between, d_hidden, d_hidden_bias);
}

// --- losses --------------------------------------------------------------------------------------

// Return the loss of one prediction, and its derivative.
inline float loss_of(float prediction, float goal, bool classification, float& derivative) {
    if (classification) {
        const float small = std::exp(-std::fabs(prediction));
        derivative = (prediction < 0 ? small : 1.0f) / (1.0f + small) - goal;
        return (prediction < 0 ? 0 : prediction) - prediction * goal + std::log1p(small);
    }
    const float difference = prediction - goal;
    derivative = difference > 0 ? 1.0f : difference < 0 ? -1.0f : difference;
    return std::fabs(difference);
}

// --- parameters of a seed, and Adam --------------------------------------------------------------

constexpr float MEAN_DECAY = 0.9f, SQUARE_DECAY = 0.999f, EPSILON = 1e-8f;

// The memory of one thread: pieces of one buffer, each on cache lines of its own.
struct Arena {
    float* memory;
    int64_t used = 0;
    float* take(int64_t count) {
        float* piece = memory ? memory + used : nullptr;
        used += (count + 15) / 16 * 16;
        return piece;
    }
};

template <int COUNT>
struct Parameters {
    const ModevalStep& step;
    int64_t sizes[COUNT];  // of one seed
    float *gradient[COUNT], *parameter[COUNT];

    Parameters(const ModevalStep& s, const int64_t (&all)[COUNT]) : step(s) {
        for (int p = 0; p < COUNT; ++p) sizes[p] = s.parameters[p] ? all[p] : 0;
    }

    void begin(int64_t seed) {
        for (int p = 0; p < COUNT; ++p) {
            parameter[p] = step.parameters[p] ? step.parameters[p] + seed * sizes[p] : nullptr;
            std::fill(gradient[p], gradient[p] + sizes[p], 0.0f);
        }
    }

    void update(int64_t seed) {
        float factor = 1;
        if (step.clip > 0) {
            double total = 0;
            for (int p = 0; p < COUNT; ++p)
                total += static_cast<double>(dot(sizes[p], gradient[p], gradient[p]));
            factor = step.clip / (static_cast<float>(std::sqrt(total)) + 1e-6f);
            factor = factor > 1 ? 1 : factor;
        }
        for (int p = 0; p < COUNT; ++p) {
            const int64_t at = seed * sizes[p];
            if (factor != 1)
                for (int64_t i = 0; i < sizes[p]; ++i) gradient[p][i] *= factor;
            if (step.gradients[p])
                std::memcpy(step.gradients[p] + at, gradient[p], sizes[p] * sizeof(float));
            if (step.means[p])
                adam(sizes[p], gradient[p], parameter[p], step.means[p] + at, step.squares[p] + at);
        }
    }

    void adam(int64_t count, const float* __restrict__ gradient, float* __restrict__ parameter,
              float* __restrict__ mean, float* __restrict__ square) const {
        const float rate = step.rate / step.mean_correction;
        const float root = 1.0f / std::sqrt(step.square_correction);
        for (int64_t i = 0; i < count; ++i) {
            const float g = gradient[i];
            const float m = mean[i] += (1 - MEAN_DECAY) * (g - mean[i]);
            const float v = square[i] = SQUARE_DECAY * square[i] + (1 - SQUARE_DECAY) * (g * g);
            parameter[i] -= rate * m / (std::sqrt(v) * root + EPSILON);
        }
    }
};

// --- all seeds -----------------------------------------------------------------------------------

// Each seed is computed by one of the threads; a Worker holds what a thread needs.
template <class Worker>
int all_seeds(const ModevalStep* step) {
    for (int64_t i = 0; i < step->seeds * step->samples * step->positions; ++i)
        if (step->rule[i] < 0 || step->rule[i] >= step->rules) return 1;
    const int64_t room = Worker(*step, nullptr).arena.used;
    std::atomic<int64_t> next{0};
    auto work = [&](int64_t thread) {
        Worker worker(*step, step->workspace + thread * room);
        for (int64_t seed; (seed = next++) < step->seeds;) worker.run(seed);
    };
    std::vector<std::thread> helpers;
    try {
        const int64_t most = step->threads < step->seeds ? step->threads : step->seeds;
        for (int64_t i = 1; i < most; ++i) helpers.emplace_back(work, i);
    } catch (const std::system_error&) {
        // no more threads to be had: those that there are do the work
    }
    work(0);
    for (std::thread& helper : helpers) helper.join();
    return 0;
}

}  // namespace

// What a family's file ends with. `modeval_workspace` returns how many floats of working memory a
// thread needs; `modeval_step` does one step and returns 0, or 1 when a rule lies outside 0 .. R - 1
// (then nothing is changed).
#define MODEVAL_FAMILY(Worker)                                              \
    extern "C" int64_t modeval_workspace(const ModevalStep* step) {         \
        return Worker(*step, nullptr).arena.used;                           \
    }                                                                       \
    extern "C" int modeval_step(const ModevalStep* step) { return all_seeds<Worker>(step); }
