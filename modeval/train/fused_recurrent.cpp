// One training step of a cohort of recurrent networks made of modules; the equations are those of
// modeval/nn/recurrent.py. A seed is worked off in groups of samples that stay in the cache, forward
// and backward through time; rows are (position, sample) of a group, so that the gradient of a
// weight is one product over all positions.
//
// Letters: T positions, F features, E units of an encoder, R rules, M modules, H size of the state,
// O outputs, P size of the state padded to whole vectors, G = 4 M P gates (for each module: in,
// forget, out, proposal), L from one row of gates to the next: an odd number of cache lines, so that
// rows do not fall on the same places of the cache. Padded gates have weights of zero, so padded
// states stay zero.

#include "fused_kernels.cpp"

namespace {

// The order of modeval.train.fused.RECURRENT.
enum Parameter {
    ENCODER_HIDDEN, ENCODER_HIDDEN_BIAS, ENCODER_READOUT, ENCODER_READOUT_BIAS,
    INPUT_GATES, INPUT_GATES_BIAS, STATE_GATES, STATE_GATES_BIAS,
    DECODER_HIDDEN, DECODER_HIDDEN_BIAS, DECODER_READOUT, DECODER_READOUT_BIAS,
    SCORER, SCORER_BIAS, TABLE_HIDDEN, TABLE_HIDDEN_BIAS, TABLE_READOUT, TABLE_READOUT_BIAS,
    PARAMETERS
};

constexpr int64_t GROUP_BYTES = 1 << 21, FEWEST = 24, MOST = 48;

inline int64_t whole_vectors(int64_t count) { return (count + LANES - 1) / LANES * LANES; }

struct Recurrent : Parameters<PARAMETERS> {
    const int64_t N, T, F, E, R, M, H, O, P, G, L;
    const int64_t group;  // samples worked off together
    Arena arena;
    // of the seed
    float *rule_rows, *d_rule_rows, *inputs_in, *d_inputs_in, *states_in, *d_states_in, *bias, *d_bias;
    float *inputs_turned, *states_turned, *logits, *d_logits, *table, *d_table, *table_units;
    float *decoder_turned, *readout_turned, *encoder_turned, *turned;
    // of the group
    float *x, *goal, *units, *d_units, *code, *d_code, *from_input, *from_state, *gates, *bent;
    float *weight, *d_weight, *state, *cell, *d_state, *d_cell, *d_states, *decoded, *d_decoded;
    float *predicted;
    std::vector<int32_t> rules;

    Recurrent(const ModevalStep& s, float* memory)
        : Parameters(s, {(s.features + s.rules) * s.encoder, s.encoder, s.encoder * s.encoder,
                         s.encoder, s.modules * s.encoder * 4 * s.hidden, s.modules * 4 * s.hidden,
                         s.modules * s.hidden * 4 * s.hidden, s.modules * 4 * s.hidden,
                         s.hidden * s.hidden, s.hidden, s.hidden * s.outputs, s.outputs,
                         s.modules * 8 * s.hidden, s.modules, s.rules * s.hidden, s.hidden,
                         s.hidden * s.modules, s.modules}),
          N(s.samples), T(s.positions), F(s.features), E(s.encoder), R(s.rules), M(s.modules),
          H(s.hidden), O(s.outputs), P(whole_vectors(H)), G(4 * M * P),
          L(G + (G / 16 % 2 ? 0 : 16)),
          group(std::clamp<int64_t>(GROUP_BYTES / (T * G * 8), FEWEST, MOST)), arena{memory},
          rules(group * T) {
        for (int p = 0; p < PARAMETERS; ++p) gradient[p] = arena.take(sizes[p]);
        rule_rows = arena.take(R * E), d_rule_rows = arena.take(R * E);
        inputs_in = arena.take(E * L), d_inputs_in = arena.take(E * L);
        states_in = arena.take(P * L), d_states_in = arena.take(P * L);
        bias = arena.take(G), d_bias = arena.take(G);
        inputs_turned = arena.take(E * L), states_turned = arena.take(P * L);
        logits = arena.take(2 * G), d_logits = arena.take(2 * G);
        table = arena.take(R * M), d_table = arena.take(R * M), table_units = arena.take(R * H);
        decoder_turned = arena.take(H * H), readout_turned = arena.take(H * O);
        encoder_turned = arena.take(E * E), turned = arena.take(H * M);
        const int64_t rows = group * T;
        x = arena.take(rows * F), goal = arena.take(rows * O);
        units = arena.take(rows * E), d_units = arena.take(rows * E);
        code = arena.take(rows * E), d_code = arena.take(rows * E);
        from_input = arena.take(rows * L);
        from_state = arena.take(own_logits() ? rows * L : 0);
        // the bent gates take the place of what they are made from, unless a logit looks at that too
        gates = own_logits() ? arena.take(rows * L) : from_input, bent = arena.take(rows * M * P);
        weight = arena.take(rows * M), d_weight = arena.take(group * M);
        state = arena.take((rows + group) * P), cell = arena.take((rows + group) * P);
        d_state = arena.take(group * P), d_cell = arena.take(group * P);
        d_states = arena.take(rows * P);
        decoded = arena.take(rows * H), d_decoded = arena.take(rows * H);
        predicted = arena.take(rows * O);
    }

    bool own_logits() const { return step.routing == Routing::module; }
    RuleScorer scorer() const {
        return {parameter[TABLE_HIDDEN], parameter[TABLE_HIDDEN_BIAS], parameter[TABLE_READOUT],
                parameter[TABLE_READOUT_BIAS]};
    }

    void run(int64_t seed) {
        begin(seed);
        prepare();
        float total = 0;
        for (int64_t first = 0; first < N; first += group) {
            const int64_t samples = N - first < group ? N - first : group;
            read((seed * N + first) * T, samples);
            forward(samples);
            total += loss(samples * T);
            backward(samples);
        }
        step.loss[seed] = total / static_cast<float>(N * T * O);
        finish();
        update(seed);
    }

    // Copy the weight of a module's gates, (depth, 4 H), to or from its columns of (depth, G).
    template <class Function>
    void each_gate(int64_t depth, Function function) const {
        for (int64_t m = 0; m < M; ++m)
            for (int64_t k = 0; k < depth; ++k)
                for (int64_t gate = 0; gate < 4; ++gate)
                    function(((m * depth + k) * 4 + gate) * H, k * L + (m * 4 + gate) * P);
    }
    void spread(int64_t depth, const float* from, float* to) const {
        each_gate(depth, [&](int64_t a, int64_t b) { std::memcpy(to + b, from + a, H * sizeof(float)); });
    }
    void collect(int64_t depth, const float* from, float* to) const {
        each_gate(depth, [&](int64_t a, int64_t b) { std::memcpy(to + a, from + b, H * sizeof(float)); });
    }

    void prepare() {
        for (int64_t i = 0; i < R * E; ++i)
            rule_rows[i] = parameter[ENCODER_HIDDEN][F * E + i] + parameter[ENCODER_HIDDEN_BIAS][i % E];
        std::fill(d_rule_rows, d_rule_rows + R * E, 0.0f);
        std::fill(inputs_in, inputs_in + E * L, 0.0f);
        std::fill(states_in, states_in + P * L, 0.0f);
        std::fill(d_inputs_in, d_inputs_in + E * L, 0.0f);
        std::fill(d_states_in, d_states_in + P * L, 0.0f);
        std::fill(bias, bias + G, 0.0f);
        std::fill(d_bias, d_bias + G, 0.0f);
        spread(E, parameter[INPUT_GATES], inputs_in);
        spread(H, parameter[STATE_GATES], states_in);
        if (parameter[INPUT_GATES_BIAS])
            each_gate(1, [&](int64_t a, int64_t b) {
                for (int64_t h = 0; h < H; ++h)
                    bias[b + h] = parameter[INPUT_GATES_BIAS][a + h] + parameter[STATE_GATES_BIAS][a + h];
            });
        transpose(E, G, inputs_in, L, inputs_turned, E);
        transpose(P, G, states_in, L, states_turned, P);
        if (own_logits()) {
            std::fill(logits, logits + 2 * G, 0.0f);
            std::fill(d_logits, d_logits + 2 * G, 0.0f);
            each_logit([&](int64_t a, int64_t b) {
                std::memcpy(logits + b, parameter[SCORER] + a, H * sizeof(float));
            });
        }
        transpose(H, H, parameter[DECODER_HIDDEN], decoder_turned);
        transpose(H, O, parameter[DECODER_READOUT], readout_turned);
        transpose(E, E, parameter[ENCODER_READOUT], encoder_turned);
        std::fill(table, table + R * M, 0.0f);
        std::fill(d_table, d_table + R * M, 0.0f);
        if (step.routing == Routing::rule) table_of_rules(R, H, M, scorer(), table_units, table);
        if (step.routing == Routing::table) std::memcpy(table, step.table, R * M * sizeof(float));
        if (step.routing == Routing::chosen)
            for (int64_t i = 0; i < R; ++i) table[i * M + step.chosen[i]] = 1;
    }

    // A module's logit looks at what its gates get from the input, and at what they get from the state.
    template <class Function>
    void each_logit(Function function) const {
        for (int64_t m = 0; m < M; ++m)
            for (int64_t half = 0; half < 2; ++half)
                for (int64_t gate = 0; gate < 4; ++gate)
                    function(((m * 2 + half) * 4 + gate) * H, half * G + (m * 4 + gate) * P);
    }

    void read(int64_t first, int64_t samples) {
        for (int64_t t = 0; t < T; ++t)
            for (int64_t b = 0; b < samples; ++b) {
                const int64_t from = first + b * T + t, to = t * samples + b;
                std::memcpy(x + to * F, step.inputs + from * F, F * sizeof(float));
                std::memcpy(goal + to * O, step.target + from * O, O * sizeof(float));
                rules[to] = static_cast<int32_t>(step.rule[from]);
            }
    }

    void forward(int64_t samples) {
        const int64_t rows = samples * T;
        product(rows, E, F, plain(x, F), parameter[ENCODER_HIDDEN], E, units, E,
                {Start::rows, rule_rows, rules.data(), E, true});
        product(rows, E, E, plain(units, E), parameter[ENCODER_READOUT], E, code, E,
                {Start::row, parameter[ENCODER_READOUT_BIAS]});
        product(rows, G, E, plain(code, E), inputs_in, L, from_input, L, {Start::row, bias});
        std::fill(state, state + samples * P, 0.0f);
        std::fill(cell, cell + samples * P, 0.0f);
        for (int64_t t = 0; t < T; ++t) {
            const int64_t row = t * samples;
            if (own_logits()) {
                product(samples, G, t ? P : 0, plain(state + row * P, P), states_in, L, from_state + row * L, L);
                logit(row, samples);
            } else {
                if (t)  // the first state is zero
                    product(samples, G, P, plain(state + row * P, P), states_in, L,
                            from_input + row * L, L, ADD);
                for (int64_t n = row; n < row + samples; ++n)
                    std::memcpy(weight + n * M, table + rules[n] * M, M * sizeof(float));
            }
            for (int64_t n = row; n < row + samples; ++n) move(n, n + samples);
        }
        product(rows, H, H, plain(state + samples * P, P), parameter[DECODER_HIDDEN], H, decoded, H,
                {Start::row, parameter[DECODER_HIDDEN_BIAS], nullptr, 0, true});
        product(rows, O, H, plain(decoded, H), parameter[DECODER_READOUT], O, predicted, O,
                {Start::row, parameter[DECODER_READOUT_BIAS]});
    }

    void logit(int64_t row, int64_t samples) {
        for (int64_t n = row; n < row + samples; ++n)
            for (int64_t m = 0; m < M; ++m) {
                const int64_t at = n * L + m * 4 * P, own = m * 4 * P;
                Vector sum{};
                for (int64_t k = 0; k < 4 * P; k += LANES)
                    sum += rectified(load(from_input + at + k)) * load(logits + own + k) +
                           rectified(load(from_state + at + k)) * load(logits + G + own + k);
                weight[n * M + m] = sum_of_lanes(sum);
            }
        softmax_rows(samples, M, weight + row * M);
    }

    // One position of one sample: all modules propose, their proposals are mixed. `next` is the row
    // of the new state, `n` that of the old one and of everything else.
    void move(int64_t n, int64_t next) {
        const float* before = cell + n * P;
        for (int64_t k = 0; k < P; k += LANES) {
            Vector new_state{}, new_cell{};
            for (int64_t m = 0; m < M; ++m) {
                const int64_t at = n * L + m * 4 * P + k;
                Vector z[4];
                for (int gate = 0; gate < 4; ++gate) {
                    z[gate] = load(from_input + at + gate * P);
                    if (own_logits()) z[gate] += load(from_state + at + gate * P);
                    z[gate] = gate < 3 ? sigmoid(z[gate]) : hyperbolic_tangent(z[gate]);
                    store(gates + at + gate * P, z[gate]);
                }
                const Vector own_cell = z[1] * load(before + k) + z[0] * z[3];
                const Vector curved = hyperbolic_tangent(own_cell);
                store(bent + (n * M + m) * P + k, curved);
                const float share = weight[n * M + m];
                new_state += share * (z[2] * curved);
                new_cell += share * own_cell;
            }
            store(state + next * P + k, new_state);
            store(cell + next * P + k, new_cell);
        }
    }

    // The derivative of the loss by the predictions takes their place.
    float loss(int64_t rows) {
        const float share = 1.0f / static_cast<float>(N * T * O);
        float total = 0;
        for (int64_t i = 0; i < rows * O; ++i) {
            float back;
            total += loss_of(predicted[i], goal[i], step.classification, back);
            predicted[i] = back * share;
        }
        return total;
    }

    void backward(int64_t samples) {
        const int64_t rows = samples * T;
        product_over_samples(H, O, rows, decoded, H, predicted, O, gradient[DECODER_READOUT], O, true);
        add_rows(rows, O, predicted, gradient[DECODER_READOUT_BIAS]);
        product(rows, H, O, plain(predicted, O), readout_turned, H, d_decoded, H);
        keep_where_positive(rows * H, decoded, d_decoded);
        product_over_samples(H, H, rows, state + samples * P, P, d_decoded, H, gradient[DECODER_HIDDEN],
                             H, true);
        add_rows(rows, H, d_decoded, gradient[DECODER_HIDDEN_BIAS]);
        std::fill(d_states, d_states + rows * P, 0.0f);
        product(rows, H, H, plain(d_decoded, H), decoder_turned, H, d_states, P);
        std::fill(d_cell, d_cell + samples * P, 0.0f);
        const float* d_from_state = own_logits() ? from_state : gates;
        for (int64_t t = T - 1; t >= 0; --t) {
            const int64_t row = t * samples;
            std::memcpy(d_state, d_states + row * P, samples * P * sizeof(float));
            if (t < T - 1)
                product(samples, P, G, plain(d_from_state + (row + samples) * L, L), states_turned, P,
                        d_state, P, ADD);
            for (int64_t b = 0; b < samples; ++b) move_back(row + b, b);
            if (own_logits()) {
                softmax_rows_back(samples, M, weight + row * M, d_weight);
                for (int64_t b = 0; b < samples; ++b) logit_back(row + b, b);
            } else {
                for (int64_t b = 0; b < samples; ++b)
                    add_rows(1, M, d_weight + b * M, d_table + rules[row + b] * M);
            }
        }
        const float* d_from_input = own_logits() ? from_input : gates;
        product_over_samples(P, G, rows - samples, state + samples * P, P, d_from_state + samples * L, L,
                             d_states_in, L, true);  // the first state is zero
        product_over_samples(E, G, rows, code, E, d_from_input, L, d_inputs_in, L, true);
        for (int64_t n = 0; n < rows && parameter[INPUT_GATES_BIAS]; ++n)
            add_rows(1, G, d_from_input + n * L, d_bias);
        product(rows, E, G, plain(d_from_input, L), inputs_turned, E, d_code, E);
        product_over_samples(E, E, rows, units, E, d_code, E, gradient[ENCODER_READOUT], E, true);
        add_rows(rows, E, d_code, gradient[ENCODER_READOUT_BIAS]);
        product(rows, E, E, plain(d_code, E), encoder_turned, E, d_units, E);
        keep_where_positive(rows * E, units, d_units);
        product_over_samples(F, E, rows, x, F, d_units, E, gradient[ENCODER_HIDDEN], E, true);
        for (int64_t n = 0; n < rows; ++n) add_rows(1, E, d_units + n * E, d_rule_rows + rules[n] * E);
    }

    // The gradient of gates before they are bent takes the place of the gates; that of the cell one
    // position earlier takes the place of this one's; d_weight is what the mixing gives.
    void move_back(int64_t n, int64_t b) {
        float *d_h = d_state + b * P, *d_c = d_cell + b * P;
        const float* before = cell + n * P;
        for (int64_t m = 0; m < M; ++m) {
            Vector d_share{};
            for (int64_t k = 0; k < P; k += LANES) {
                const int64_t at = n * L + m * 4 * P + k;
                const Vector curved = load(bent + (n * M + m) * P + k);
                const Vector own_cell = load(gates + at + P) * load(before + k) +
                                        load(gates + at) * load(gates + at + 3 * P);
                d_share += load(d_h + k) * load(gates + at + 2 * P) * curved + load(d_c + k) * own_cell;
            }
            d_weight[b * M + m] = sum_of_lanes(d_share);
        }
        for (int64_t k = 0; k < P; k += LANES) {
            Vector d_before{};
            for (int64_t m = 0; m < M; ++m) {
                const int64_t at = n * L + m * 4 * P + k;
                const Vector in = load(gates + at), forget = load(gates + at + P);
                const Vector out = load(gates + at + 2 * P), proposal = load(gates + at + 3 * P);
                const Vector curved = load(bent + (n * M + m) * P + k);
                const float share = weight[n * M + m];
                const Vector d_own = share * load(d_h + k);
                const Vector d_own_cell =
                    share * load(d_c + k) + d_own * out * (1.0f - curved * curved);
                d_before += d_own_cell * forget;
                store(gates + at, d_own_cell * proposal * in * (1.0f - in));
                store(gates + at + P, d_own_cell * load(before + k) * forget * (1.0f - forget));
                store(gates + at + 2 * P, d_own * curved * out * (1.0f - out));
                store(gates + at + 3 * P, d_own_cell * in * (1.0f - proposal * proposal));
            }
            store(d_c + k, d_before);
        }
    }

    // What the modules' own logits add; gradients take the places of from_input and from_state.
    void logit_back(int64_t n, int64_t b) {
        for (int64_t m = 0; m < M; ++m) {
            const float back = d_weight[b * M + m];
            for (int64_t k = m * 4 * P; k < (m + 1) * 4 * P; k += LANES) {
                const Vector d_gate = load(gates + n * L + k);
                const auto half = [&](float* values, int64_t own) {
                    const Vector seen = load(values + n * L + k);
                    const Vector positive = seen > 0 ? fill(back) : Vector{};
                    store(d_logits + own + k, load(d_logits + own + k) + positive * seen);
                    store(values + n * L + k, d_gate + positive * load(logits + own + k));
                };
                half(from_input, 0);
                half(from_state, G);
            }
        }
    }

    void finish() {
        for (int64_t i = 0; i < R * E; ++i) {
            gradient[ENCODER_HIDDEN][F * E + i] = d_rule_rows[i];
            gradient[ENCODER_HIDDEN_BIAS][i % E] += d_rule_rows[i];
        }
        collect(E, d_inputs_in, gradient[INPUT_GATES]);
        collect(H, d_states_in, gradient[STATE_GATES]);
        if (parameter[INPUT_GATES_BIAS]) {
            collect(1, d_bias, gradient[INPUT_GATES_BIAS]);
            collect(1, d_bias, gradient[STATE_GATES_BIAS]);
        }
        if (own_logits())
            each_logit([&](int64_t a, int64_t b) {
                std::memcpy(gradient[SCORER] + a, d_logits + b, H * sizeof(float));
            });
        if (step.routing == Routing::rule)
            table_of_rules_back(R, H, M, scorer(), table_units, table, d_table, turned,
                                gradient[TABLE_HIDDEN], gradient[TABLE_HIDDEN_BIAS],
                                gradient[TABLE_READOUT], gradient[TABLE_READOUT_BIAS]);
    }
};

}  // namespace

MODEVAL_FAMILY(Recurrent)
