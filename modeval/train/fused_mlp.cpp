// One training step of a cohort of MLPs made of modules: loss, gradients, clipping and Adam in one
// pass over each seed, so that everything of a seed stays in the cache of the core that works on it.
//
// The equations are those of modeval/nn/mlp.py (there is the readable form). Adjacent linear layers
// are multiplied out on weights, as there; gradients go back through these products by hand. One
// more thing is used here: the encoder of a number has a single input, so all that it adds to the
// hidden units is piecewise linear in that number, with E corners. A table of slopes and intercepts
// for the E + 1 pieces takes the place of the largest product, and sums over the samples of each
// piece take the place of the two largest products of the backward pass.
//
// Letters: N samples, E units of an encoder, R rules, M modules, H hidden units of a module,
// W width of a module's output, C = M H columns of hidden units.

#include "fused_kernels.cpp"

namespace {

// The order of modeval.train.fused.MLP.
enum Parameter {
    NUMBER_HIDDEN, NUMBER_HIDDEN_BIAS, NUMBER_READOUT, NUMBER_READOUT_BIAS,
    RULE_HIDDEN, RULE_HIDDEN_BIAS, RULE_READOUT, RULE_READOUT_BIAS,
    EXPERT_HIDDEN, EXPERT_HIDDEN_BIAS, EXPERT_READOUT, EXPERT_READOUT_BIAS,
    DECODER_HIDDEN, DECODER_HIDDEN_BIAS, DECODER_READOUT, DECODER_READOUT_BIAS,
    SCORER, SCORER_BIAS, PROJECTION, PROJECTION_BIAS, PARAMETERS
};

struct MLP : Parameters<PARAMETERS> {
    const int64_t N, E, R, M, H, W, C;
    const bool sparse;       // one module for each sample: only that one is computed
    const int64_t block;     // columns of hidden units that a sample has
    Arena arena;
    // merged weights, as modeval.nn.mlp.MergedMLP, and their gradients
    float *bank, *d_bank, *first, *d_first, *offset, *d_offset, *readout, *d_readout;
    float *readout_bias, *d_readout_bias, *rule_units, *encoding, *d_encoding;
    float *weights_of_rule, *d_weights_of_rule, *start, *d_start, *constant, *spare, *both, *turned;
    // samples
    float *x, *goal, *hidden, *d_hidden, *scaled, *weight, *d_weight, *mixed, *d_mixed;
    // pieces of the encoder: rows are pieces, (2, E + 1, C) for the two numbers
    float *slopes, *intercepts, *sums, *sums_times_x, *corners;
    std::vector<int32_t> rules, first_of_module, order, piece;
    int64_t now = 0;  // seed

    MLP(const ModevalStep& s, float* memory)
        : Parameters(s, {s.encoder, s.encoder, s.encoder * s.encoder, s.encoder,
                         s.rules * s.encoder, s.encoder, s.encoder * s.encoder, s.encoder,
                         3 * s.encoder * s.modules * s.hidden, s.modules * s.hidden,
                         s.modules * s.hidden * s.width, s.modules * s.width, s.width * s.encoder,
                         s.encoder, s.encoder, 1,
                         s.modules * s.hidden, s.modules, s.encoder * s.modules, s.modules}),
          N(s.samples), E(s.encoder), R(s.rules), M(s.modules), H(s.hidden), W(s.width),
          C(M * H), sparse(s.routing == Routing::chosen && M > 1), block(sparse ? H : C),
          arena{memory}, rules(N), first_of_module(M + 1), order(E), piece(2 * N) {
        for (int p = 0; p < PARAMETERS; ++p) gradient[p] = arena.take(sizes[p]);
        lay_out();
    }

    void lay_out() {
        bank = arena.take(3 * E * C), d_bank = arena.take(3 * E * C);
        first = arena.take(2 * E * C), d_first = arena.take(2 * E * C);
        offset = arena.take(R * C), d_offset = arena.take(R * C);
        readout = arena.take(C * E), d_readout = arena.take(C * E);
        readout_bias = arena.take(M * E), d_readout_bias = arena.take(M * E);
        rule_units = arena.take(R * E), encoding = arena.take(R * E), d_encoding = arena.take(R * E);
        weights_of_rule = arena.take(R * M), d_weights_of_rule = arena.take(R * M);
        start = arena.take(R * E), d_start = arena.take(R * E);
        constant = arena.take(C), spare = arena.take(C), both = arena.take(E * C);
        const int64_t widest = 3 * E * C > W * E ? 3 * E * C : W * E;
        turned = arena.take((widest > E * E ? widest : E * E) + R * E + M * E);
        x = arena.take(2 * N), goal = arena.take(N);
        const int64_t table = 2 * (E + 1) * C;
        slopes = arena.take(table), intercepts = arena.take(table);
        sums = arena.take(table), sums_times_x = arena.take(table), corners = arena.take(E);
        hidden = arena.take(N * block), d_hidden = arena.take(N * block);
        scaled = arena.take(N * block);
        weight = arena.take(N * M), d_weight = arena.take(N * M);
        mixed = arena.take(N * E), d_mixed = arena.take(N * E);
    }

    bool weighted() const { return !sparse && M > 1; }
    bool own_logits() const { return step.routing == Routing::module; }
    bool given() const { return step.routing == Routing::given; }
    bool by_sample() const { return own_logits() || given(); }

    void run(int64_t seed) {
        now = seed;
        begin(seed);
        read(seed);
        merge();
        cut();
        forward();
        step.loss[seed] = loss();
        backward();
        unmerge();
        update(seed);
    }

    // Copy the samples of a seed, those of one module side by side if each has only one.
    void read(int64_t seed) {
        const float* inputs = step.inputs + seed * N * 2;
        const float* target = step.target + seed * N;
        const int64_t* rule = step.rule + seed * N;
        std::fill(first_of_module.begin(), first_of_module.end(), 0);
        if (sparse) {
            for (int64_t n = 0; n < N; ++n) ++first_of_module[step.chosen[rule[n]] + 1];
            for (int64_t m = 0; m < M; ++m) first_of_module[m + 1] += first_of_module[m];
        }
        std::vector<int32_t> next(first_of_module);
        for (int64_t n = 0; n < N; ++n) {
            const int64_t to = sparse ? next[step.chosen[rule[n]]]++ : n;
            x[2 * to] = inputs[2 * n], x[2 * to + 1] = inputs[2 * n + 1];
            goal[to] = target[n];
            rules[to] = static_cast<int32_t>(rule[n]);
        }
    }

    void merge() {
        // (M, 3E, H) -> (3E, C)
        for (int64_t m = 0; m < M; ++m)
            for (int64_t e = 0; e < 3 * E; ++e)
                std::memcpy(bank + e * C + m * H, parameter[EXPERT_HIDDEN] + (m * 3 * E + e) * H,
                            H * sizeof(float));
        for (int64_t i = 0; i < R; ++i)
            for (int64_t e = 0; e < E; ++e) {
                const float value = parameter[RULE_HIDDEN][i * E + e] + parameter[RULE_HIDDEN_BIAS][e];
                rule_units[i * E + e] = value < 0 ? 0 : value;
            }
        product(R, E, E, plain(rule_units, E), parameter[RULE_READOUT], E, encoding, E,
                {Start::row, parameter[RULE_READOUT_BIAS]});
        for (int part = 0; part < 2; ++part)
            product(E, C, E, plain(parameter[NUMBER_READOUT], E), bank + part * E * C, C,
                    first + part * E * C, C);
        for (int64_t i = 0; i < E * C; ++i) both[i] = bank[i] + bank[E * C + i];
        product(1, C, E, plain(parameter[NUMBER_READOUT_BIAS], E), both, C, constant, C,
                {Start::row, parameter[EXPERT_HIDDEN_BIAS]});
        product(R, C, E, plain(encoding, E), bank + 2 * E * C, C, offset, C, {Start::row, constant});
        product(C, E, W, plain(parameter[EXPERT_READOUT], W), parameter[DECODER_HIDDEN], E, readout, E);
        product(M, E, W, plain(parameter[EXPERT_READOUT_BIAS], W), parameter[DECODER_HIDDEN], E,
                readout_bias, E);
        if (by_sample()) return;
        std::memset(weights_of_rule, 0, R * M * sizeof(float));
        if (step.routing == Routing::table)
            std::memcpy(weights_of_rule, step.table, R * M * sizeof(float));
        if (step.routing == Routing::chosen)
            for (int64_t i = 0; i < R; ++i) weights_of_rule[i * M + step.chosen[i]] = 1;
        if (step.routing == Routing::rule) {
            product(R, M, E, plain(encoding, E), parameter[PROJECTION], M, weights_of_rule, M,
                    {Start::row, parameter[PROJECTION_BIAS]});
            softmax_rows(R, M, weights_of_rule);
        }
        // what the rule alone gives to the decoder's hidden units
        product(R, E, M, plain(weights_of_rule, M), readout_bias, E, start, E,
                {Start::row, parameter[DECODER_HIDDEN_BIAS]});
    }

    // Call what computes samples [from, to) with the hidden units in columns [column, column + block).
    template <class Function>
    void each_group(Function function) {
        if (!sparse) return function(int64_t{0}, N, int64_t{0});
        for (int64_t m = 0; m < M; ++m)
            if (first_of_module[m] < first_of_module[m + 1])
                function(int64_t{first_of_module[m]}, int64_t{first_of_module[m + 1]}, m * H);
    }

    bool rises(int32_t unit) const { return !(parameter[NUMBER_HIDDEN][unit] < 0); }

    // Cut the line at the corners of the encoder's units, and say for each piece what the units that
    // are positive there add to the hidden units: slope times number plus intercept.
    void cut() {
        const float *slope = parameter[NUMBER_HIDDEN], *shift = parameter[NUMBER_HIDDEN_BIAS];
        std::vector<float> corner(E);
        for (int64_t e = 0; e < E; ++e) {
            // a unit without slope is positive everywhere or nowhere; NaN must reach every sample
            corner[e] = slope[e] != 0 ? -shift[e] / slope[e] : shift[e] > 0 ? -INFINITY : INFINITY;
            if (std::isnan(corner[e])) corner[e] = rises(e) ? -INFINITY : INFINITY;
            order[e] = static_cast<int32_t>(e);
        }
        std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
            return corner[a] < corner[b] || (corner[a] == corner[b] && a < b);
        });
        for (int64_t rank = 0; rank < E; ++rank) corners[rank] = corner[order[rank]];
        for (int64_t n = 0; n < 2 * N; ++n) {
            int32_t below = 0;
            for (int64_t rank = 0; rank < E; ++rank) below += corners[rank] < x[n];
            piece[n] = below + (n % 2 ? static_cast<int32_t>(E + 1) : 0);
        }
        for (int part = 0; part < 2; ++part) {
            const float* weights = first + part * E * C;
            float* a = slopes + part * (E + 1) * C;
            float* b = intercepts + part * (E + 1) * C;
            std::memset(a, 0, C * sizeof(float));
            std::memset(b, 0, C * sizeof(float));
            // rising units count in the pieces above their corner, falling ones below it
            for (int64_t rank = 0; rank < E; ++rank) {
                const int32_t e = order[rank];
                const float w = rises(e) ? slope[e] : 0, s = rises(e) ? shift[e] : 0;
                blend(a + rank * C, w, weights + e * C, a + (rank + 1) * C);
                blend(b + rank * C, s, weights + e * C, b + (rank + 1) * C);
            }
            std::fill(constant, constant + C, 0.0f);
            std::fill(spare, spare + C, 0.0f);
            for (int64_t rank = E - 1; rank >= 0; --rank) {
                const int32_t e = order[rank];
                if (!rises(e)) {
                    blend(constant, slope[e], weights + e * C, constant);
                    blend(spare, shift[e], weights + e * C, spare);
                }
                blend(a + rank * C, 1, constant, a + rank * C);
                blend(b + rank * C, 1, spare, b + rank * C);
            }
        }
    }

    // to = from + factor * direction, over the columns of hidden units; `to` may be `from`
    void blend(const float* from, float factor, const float* direction, float* to) const {
        int64_t c = 0;
        for (; c + LANES <= C; c += LANES)
            store(to + c, load(from + c) + factor * load(direction + c));
        for (; c < C; ++c) to[c] = from[c] + factor * direction[c];
    }

    // The gradients of the encoder's first layer and of `first`, from the sums over each piece.
    void uncut() {
        const float *slope = parameter[NUMBER_HIDDEN], *shift = parameter[NUMBER_HIDDEN_BIAS];
        for (int part = 0; part < 2; ++part) {
            const float* plain_sums = sums + part * (E + 1) * C;
            const float* x_sums = sums_times_x + part * (E + 1) * C;
            const auto pass = [&](int64_t rank, int64_t piece_now, bool rising) {
                blend(constant, 1, plain_sums + piece_now * C, constant);
                blend(spare, 1, x_sums + piece_now * C, spare);
                const int32_t e = order[rank];
                if (rises(e) != rising) return;
                const float* weights = first + (part * E + e) * C;
                gradient[NUMBER_HIDDEN][e] += dot(C, weights, spare);
                gradient[NUMBER_HIDDEN_BIAS][e] += dot(C, weights, constant);
                float* to = d_first + (part * E + e) * C;
                for (int64_t c = 0; c < C; ++c) to[c] = slope[e] * spare[c] + shift[e] * constant[c];
            };
            std::fill(constant, constant + C, 0.0f);
            std::fill(spare, spare + C, 0.0f);
            for (int64_t rank = 0; rank < E; ++rank) pass(rank, rank, false);
            std::fill(constant, constant + C, 0.0f);
            std::fill(spare, spare + C, 0.0f);
            for (int64_t rank = E - 1; rank >= 0; --rank) pass(rank, rank + 1, true);
        }
    }

    void forward() {
        each_group([&](int64_t from, int64_t to, int64_t column) {
            for (int64_t n = from; n < to; ++n) {
                const int64_t one = piece[2 * n] * C + column, two = piece[2 * n + 1] * C + column;
                const float *a1 = slopes + one, *b1 = intercepts + one;
                const float *a2 = slopes + two, *b2 = intercepts + two;
                const float *own = offset + rules[n] * C + column, x1 = x[2 * n], x2 = x[2 * n + 1];
                float* __restrict__ units = hidden + n * block;
                for (int64_t c = 0; c < block; ++c) {
                    const float value = own[c] + (x1 * a1[c] + b1[c]) + (x2 * a2[c] + b2[c]);
                    units[c] = value < 0 ? 0 : value;
                }
            }
        });
        Ending ending{Start::rows, start, rules.data(), E, true};
        if (weighted()) weigh();
        if (by_sample()) {
            product(N, E, M, plain(weight, M), readout_bias, E, mixed, E,
                    {Start::row, parameter[DECODER_HIDDEN_BIAS]});
            ending = {Start::add, nullptr, nullptr, 0, true};
        }
        const float* units = weighted() ? scaled : hidden;
        each_group([&](int64_t from, int64_t to, int64_t column) {
            Ending own = ending;
            if (own.index) own.index += from;
            product(to - from, E, block, plain(units + from * block, block), readout + column * E, E,
                    mixed + from * E, E, own);
        });
    }

    // The routing weights of each sample, and hidden units times weights.
    void weigh() {
        if (own_logits()) {
            own_weights(N, M, H, hidden, parameter[SCORER], parameter[SCORER_BIAS], weight);
        } else if (given()) {
            std::memcpy(weight, step.given + now * N * M, N * M * sizeof(float));
        } else {
            for (int64_t n = 0; n < N; ++n)
                std::memcpy(weight + n * M, weights_of_rule + rules[n] * M, M * sizeof(float));
        }
        scale_rows(N * M, H, weight, hidden, scaled);
    }

    // Return the mean loss, and leave the gradient of the decoder's hidden units before they are
    // rectified, and of what follows them.
    float loss() {
        const float* row = parameter[DECODER_READOUT];
        float total = 0, share = 1.0f / static_cast<float>(N);
        for (int64_t n = 0; n < N; ++n) {
            const float prediction = dot(E, mixed + n * E, row) + parameter[DECODER_READOUT_BIAS][0];
            float back;
            const float own = loss_of(prediction, goal[n], step.classification, back);
            total += own;
            if (step.cost) step.cost[now * N + n] = own;  // routing is given: samples keep their places
            back *= share;
            gradient[DECODER_READOUT_BIAS][0] += back;
            for (int64_t e = 0; e < E; ++e) {
                const float unit = mixed[n * E + e];
                gradient[DECODER_READOUT][e] += back * unit;
                d_mixed[n * E + e] = unit > 0 ? back * row[e] : 0.0f;
            }
        }
        return total * share;
    }

    void backward() {
        add_rows(N, E, d_mixed, gradient[DECODER_HIDDEN_BIAS]);
        const float* units = weighted() ? scaled : hidden;
        if (sparse) std::memset(d_readout, 0, C * E * sizeof(float));
        transpose(C, E, readout, turned);
        each_group([&](int64_t from, int64_t to, int64_t column) {
            product_over_samples(block, E, to - from, units + from * block, block,
                                 d_mixed + from * E, E, d_readout + column * E, E);
            product(to - from, block, E, plain(d_mixed + from * E, E), turned + column, C,
                    d_hidden + from * block, block);
        });
        weigh_back();
        std::memset(d_offset, 0, R * C * sizeof(float));
        std::memset(sums, 0, 2 * (E + 1) * C * sizeof(float));
        std::memset(sums_times_x, 0, 2 * (E + 1) * C * sizeof(float));
        each_group([&](int64_t from, int64_t to, int64_t column) {
            for (int64_t n = from; n < to; ++n) {
                const int64_t one = piece[2 * n] * C + column, two = piece[2 * n + 1] * C + column;
                float *s1 = sums + one, *s2 = sums + two;
                float *t1 = sums_times_x + one, *t2 = sums_times_x + two;
                float* own = d_offset + rules[n] * C + column;
                const float *units = hidden + n * block, *back = d_hidden + n * block;
                const float x1 = x[2 * n], x2 = x[2 * n + 1];
                int64_t c = 0;
                for (; c + LANES <= block; c += LANES) {
                    const Vector g = load(units + c) > 0 ? load(back + c) : Vector{};
                    store(own + c, load(own + c) + g);
                    store(s1 + c, load(s1 + c) + g);
                    store(s2 + c, load(s2 + c) + g);
                    store(t1 + c, load(t1 + c) + x1 * g);
                    store(t2 + c, load(t2 + c) + x2 * g);
                }
                for (; c < block; ++c) {
                    const float g = units[c] > 0 ? back[c] : 0.0f;
                    own[c] += g;
                    s1[c] += g;
                    s2[c] += g;
                    t1[c] += x1 * g;
                    t2[c] += x2 * g;
                }
            }
        });
        uncut();
    }

    // From the gradient of weighted hidden units (in d_hidden) to that of hidden units and weights.
    void weigh_back() {
        if (by_sample()) {
            product_over_samples(M, E, N, weight, M, d_mixed, E, d_readout_bias, E);
            transpose(M, E, readout_bias, turned);
            product(N, M, E, plain(d_mixed, E), turned, M, d_weight, M);
        } else {
            std::memset(d_start, 0, R * E * sizeof(float));
            for (int64_t n = 0; n < N; ++n)
                add_rows(1, E, d_mixed + n * E, d_start + rules[n] * E);
            product_over_samples(M, E, R, weights_of_rule, M, d_start, E, d_readout_bias, E);
            transpose(M, E, readout_bias, turned);
            product(R, M, E, plain(d_start, E), turned, M, d_weights_of_rule, M);
            std::memset(d_weight, 0, weighted() ? N * M * sizeof(float) : 0);
        }
        if (!weighted()) return;
        for (int64_t i = 0; i < N * M; ++i)
            d_weight[i] += dot(H, d_hidden + i * H, hidden + i * H);
        if (!by_sample())
            for (int64_t n = 0; n < N; ++n)
                add_rows(1, M, d_weight + n * M, d_weights_of_rule + rules[n] * M);
        if (given()) std::memcpy(step.d_given + now * N * M, d_weight, N * M * sizeof(float));
        for (int64_t i = 0; i < N * M; ++i)
            for (int64_t h = 0; h < H; ++h) d_hidden[i * H + h] *= weight[i];
        if (!own_logits()) return;
        own_weights_back(N, M, H, hidden, parameter[SCORER], weight, d_weight, gradient[SCORER],
                         gradient[SCORER_BIAS], d_hidden);
    }

    // Carry gradients of merged weights back to the parameters.
    void unmerge() {
        // readout = EXPERT_READOUT DECODER_HIDDEN, readout_bias = EXPERT_READOUT_BIAS DECODER_HIDDEN
        transpose(W, E, parameter[DECODER_HIDDEN], turned);
        product(C, W, E, plain(d_readout, E), turned, W, gradient[EXPERT_READOUT], W);
        product(M, W, E, plain(d_readout_bias, E), turned, W, gradient[EXPERT_READOUT_BIAS], W);
        product_over_samples(W, E, C, parameter[EXPERT_READOUT], W, d_readout, E,
                             gradient[DECODER_HIDDEN], E);
        product_over_samples(W, E, M, parameter[EXPERT_READOUT_BIAS], W, d_readout_bias, E,
                             gradient[DECODER_HIDDEN], E, true);
        // offset = encoding bank_3 + constant
        add_rows(R, C, d_offset, gradient[EXPERT_HIDDEN_BIAS]);
        const float* d_constant = gradient[EXPERT_HIDDEN_BIAS];
        transpose(E, C, bank + 2 * E * C, turned);
        product(R, E, C, plain(d_offset, C), turned, E, d_encoding, E);
        product_over_samples(E, C, R, encoding, E, d_offset, C, d_bank + 2 * E * C, C);
        // first = [NUMBER_READOUT bank_1; NUMBER_READOUT bank_2]
        for (int part = 0; part < 2; ++part) {
            transpose(E, C, bank + part * E * C, turned);
            product(E, E, C, plain(d_first + part * E * C, C), turned, E, gradient[NUMBER_READOUT],
                    E, ADD);
            product(E, C, E, transposed(parameter[NUMBER_READOUT], E), d_first + part * E * C, C,
                    d_bank + part * E * C, C);
        }
        // constant = EXPERT_HIDDEN_BIAS + NUMBER_READOUT_BIAS (bank_1 + bank_2)
        for (int64_t e = 0; e < E; ++e) {
            gradient[NUMBER_READOUT_BIAS][e] = dot(C, both + e * C, d_constant);
            const float bias = parameter[NUMBER_READOUT_BIAS][e];
            for (int64_t c = 0; c < C; ++c) {
                d_bank[e * C + c] += bias * d_constant[c];
                d_bank[(E + e) * C + c] += bias * d_constant[c];
            }
        }
        for (int64_t m = 0; m < M; ++m)
            for (int64_t e = 0; e < 3 * E; ++e)
                std::memcpy(gradient[EXPERT_HIDDEN] + (m * 3 * E + e) * H, d_bank + e * C + m * H,
                            H * sizeof(float));
        if (step.routing == Routing::rule) {
            softmax_rows_back(R, M, weights_of_rule, d_weights_of_rule);
            product_over_samples(E, M, R, encoding, E, d_weights_of_rule, M, gradient[PROJECTION],
                                 M);
            add_rows(R, M, d_weights_of_rule, gradient[PROJECTION_BIAS]);
            transpose(E, M, parameter[PROJECTION], turned);
            product(R, E, M, plain(d_weights_of_rule, M), turned, E, d_encoding, E, ADD);
        }
        // encoding = rule_units RULE_READOUT + RULE_READOUT_BIAS
        product_over_samples(E, E, R, rule_units, E, d_encoding, E, gradient[RULE_READOUT], E);
        add_rows(R, E, d_encoding, gradient[RULE_READOUT_BIAS]);
        transpose(E, E, parameter[RULE_READOUT], turned);
        product(R, E, E, plain(d_encoding, E), turned, E, gradient[RULE_HIDDEN], E);
        keep_where_positive(R * E, rule_units, gradient[RULE_HIDDEN]);
        add_rows(R, E, gradient[RULE_HIDDEN], gradient[RULE_HIDDEN_BIAS]);
    }
};

}  // namespace

MODEVAL_FAMILY(MLP)
