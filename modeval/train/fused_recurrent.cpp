// One training step of a cohort of recurrent networks made of modules; the equations are those of
// modeval/nn/recurrent.py. A seed is worked off in groups of samples that stay in the cache, forward
// and backward through time. A row is one position of one sample, and sees the code of its input
// beside the state before it, so that the gates are one product and so is the gradient of their
// weights over all positions of a group. Gates are bent as soon as they are made, a vector of units
// at a time, while they are in the first-level cache.
//
// Rows stand position after position. Where the rule alone chooses one module for a row, only that
// module is computed, and the rows of a module stand together, position after position among them;
// `next` says where the same sample goes on.
//
// Letters: T positions, F features, E units of an encoder, R rules, M modules, K modules that are
// computed for a row (all, or the chosen one), Q = M / K kinds of rows, H size of the state, O outputs,
// P size of the state and D size of the code, padded to whole vectors, X = D + P what a row sees,
// V units of a module among the gates, G = 4 K V gates of a row, S those padded to whole vectors, L
// from one row of gates to the next and W from one row of their weights to the next: odd numbers of
// cache lines, so that rows do not fall on the same places of the cache.
//
// The gates of a module (in, forget, out, proposal) alternate, a vector of units at a time. Its last
// units are seldom a whole vector. A few that lack are padded (V = P); more are not (V = H), since
// most of the time goes into products of gates: a vector that is read there holds, beyond its own
// units, gates of others, which are left as they are (or, behind the last gates of a row, zeros).
// States are always padded, and what is padded is zero.

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

// Samples worked off together: whole tiles of 12 rows, and more where a module has few of the rows;
// fewer where modules have logits of their own, which takes three times the memory for each row.
constexpr int64_t GROUP_BYTES = 1 << 21, FEWEST = 24, FEWEST_OF_OWN = 12, MOST = 48, MOST_CHOSEN = 144;

inline int64_t odd_lines(int64_t count) {
    const int64_t lines = (count + 15) / 16;
    return 16 * (lines % 2 ? lines : lines + 1);
}

// Bend the gates of a vector of units: sigmoid of in, forget and out, tanh of the proposal. Two at a
// time share a division, which costs more than an exponential; the bounds keep their product finite
// and are far out on the flat.
inline void bend(Vector gate[4]) {
    const auto one_more = [](Vector x) { return 1.0f + exponential(x, -43.0f, 43.0f); };
    const Vector in = one_more(-gate[0]), forget = one_more(-gate[1]), out = one_more(-gate[2]);
    const Vector proposal = one_more(2.0f * gate[3]);
    const Vector first = 1.0f / (in * forget), second = 1.0f / (out * proposal);
    gate[0] = first * forget;
    gate[1] = first * in;
    gate[2] = second * proposal;
    gate[3] = near_zero_or(gate[3], 1.0f - 2.0f * (second * out));
}

struct Recurrent : Parameters<PARAMETERS> {
    const int64_t N, T, F, E, R, M, K, Q, H, O, P, V, D, X, G, S, L, W;
    const int64_t group;  // samples worked off together
    const int64_t most;   // rows of a group; row `most` stands behind each last position
    Arena arena;
    // of the seed
    float *rule_rows, *d_rule_rows, *bank, *d_bank, *bias, *d_bias;
    float *bank_panels, *code_panels, *state_panels;
    float *logits, *d_logits, *table, *d_table, *table_units, *turned_table;
    float *decoder, *d_decoder, *decoder_bias, *d_decoder_bias, *decoder_turned;
    float *readout_turned, *encoder_turned;
    // of the group
    float *x, *goal, *units, *d_units, *seen, *d_seen, *from_input, *from_state, *gates, *bent;
    float *weight, *d_weight, *after, *cell, *d_after, *d_cell, *decoded, *d_decoded, *predicted;
    std::vector<int32_t> rules, next, sample;
    std::vector<int64_t> origin;    // of each row, among all rows of all seeds
    std::vector<int64_t> begin_of;  // (Q, T): first row of a kind at a position; then the end

    Recurrent(const ModevalStep& s, float* memory)
        : Parameters(s, {(s.features + s.rules) * s.encoder, s.encoder, s.encoder * s.encoder,
                         s.encoder, s.modules * s.encoder * 4 * s.hidden, s.modules * 4 * s.hidden,
                         s.modules * s.hidden * 4 * s.hidden, s.modules * 4 * s.hidden,
                         s.hidden * s.hidden, s.hidden, s.hidden * s.outputs, s.outputs,
                         s.modules * 8 * s.hidden, s.modules, s.rules * s.hidden, s.hidden,
                         s.hidden * s.modules, s.modules}),
          N(s.samples), T(s.positions), F(s.features), E(s.encoder), R(s.rules), M(s.modules),
          K(s.routing == Routing::chosen ? 1 : M), Q(M / K), H(s.hidden), O(s.outputs),
          P(whole_vectors(H)), V(4 * (P - H) < LANES ? P : H),
          D(whole_vectors(E)), X(D + P), G(4 * K * V), S(whole_vectors(G)),
          L(odd_lines(S + LANES)), W(odd_lines(Q * S)),
          group(std::clamp<int64_t>(GROUP_BYTES / (T * 4 * K * P * 8) / 12 * 12,
                                    own_logits() ? FEWEST_OF_OWN : FEWEST,
                                    Q > 1 ? MOST_CHOSEN : MOST)),
          most(group * T), arena{memory}, rules(most), next(most), sample(most), origin(most),
          begin_of(Q * T + 1) {
        for (int p = 0; p < PARAMETERS; ++p) gradient[p] = arena.take(sizes[p]);
        rule_rows = arena.take(R * E), d_rule_rows = arena.take(R * E);
        bank = d_bank = arena.take(X * W);  // the bank itself is read from its panels
        bias = arena.take(Q * S), d_bias = arena.take(Q * S);
        bank_panels = arena.take(X * Q * S);
        code_panels = arena.take(Q * S * D), state_panels = arena.take(Q * S * P);
        logits = arena.take(2 * S + LANES), d_logits = arena.take(2 * S + LANES);
        table = arena.take(R * M), d_table = arena.take(R * M), table_units = arena.take(R * H);
        turned_table = arena.take(H * M);
        decoder = arena.take(H * P), d_decoder = arena.take(H * P), decoder_turned = arena.take(P * P);
        decoder_bias = arena.take(P), d_decoder_bias = arena.take(P);
        readout_turned = arena.take(O * P), encoder_turned = arena.take(E * E);
        x = arena.take(most * F), goal = arena.take(most * O);
        units = arena.take(most * E), d_units = arena.take(most * E);
        seen = arena.take((most + 1) * X), d_seen = arena.take((most + 1) * X);
        from_input = arena.take(most * L);
        from_state = arena.take(own_logits() ? most * L : 0);
        // the bent gates take the place of what they are made from, unless a logit looks at that too
        gates = own_logits() ? arena.take(most * L) : from_input, bent = arena.take(most * K * P);
        weight = arena.take(most * M), d_weight = arena.take(M);
        after = arena.take(most * P), cell = arena.take((most + 1) * P);
        d_after = arena.take(most * P), d_cell = arena.take(group * P);
        decoded = arena.take(most * P), d_decoded = arena.take(most * P);
        predicted = arena.take(most * O);
    }

    bool weighted() const { return K > 1; }
    bool learned() const { return step.routing == Routing::rule || own_logits() || given(); }
    bool given() const { return step.routing == Routing::given; }
    bool own_logits() const { return step.routing == Routing::module; }
    RuleScorer scorer() const {
        return {parameter[TABLE_HIDDEN], parameter[TABLE_HIDDEN_BIAS], parameter[TABLE_READOUT],
                parameter[TABLE_READOUT_BIAS]};
    }
    int64_t kind_of(int64_t rule) const { return Q > 1 ? step.chosen[rule] : 0; }

    void run(int64_t seed) {
        begin(seed);
        prepare();
        float total = 0;
        for (int64_t first = 0; first < N; first += group) {
            const int64_t samples = N - first < group ? N - first : group;
            read((seed * N + first) * T, samples);
            forward(samples * T);
            total += loss(samples * T);
            backward(samples * T);
        }
        step.loss[seed] = total / static_cast<float>(N * T * O);
        finish();
        update(seed);
    }

    // Where the gates of a module's units from h on stand in a row, and among those of all kinds; how
    // many units these are: what each gate takes, and without the padding.
    int64_t gates_of(int64_t m, int64_t h) const { return 4 * (m * V + h); }
    int64_t column_of(int64_t m, int64_t h) const { return m / K * S + gates_of(m % K, h); }
    int64_t units_from(int64_t h) const { return std::min<int64_t>(V - h, LANES); }
    int64_t own_units_from(int64_t h) const { return std::min<int64_t>(H - h, LANES); }

    // Call with places (from, to, count): where the gates of each module stand in a parameter,
    // (M, depth, 4 H), and in the rows of the bank.
    template <class Function>
    void each_gate(int64_t depth, Function function) const {
        for (int64_t m = 0; m < M; ++m)
            for (int64_t row = 0; row < depth; ++row)
                for (int64_t gate = 0; gate < 4; ++gate)
                    for (int64_t h = 0; h < H; h += LANES)
                        function(((m * depth + row) * 4 + gate) * H + h,
                                 row * W + column_of(m, h) + gate * units_from(h), own_units_from(h));
    }
    void spread(int64_t depth, const float* from, float* to) const {
        each_gate(depth, [&](int64_t a, int64_t b, int64_t count) {
            std::memcpy(to + b, from + a, count * sizeof(float));
        });
    }
    void collect(int64_t depth, const float* from, float* to) const {
        each_gate(depth, [&](int64_t a, int64_t b, int64_t count) {
            std::memcpy(to + a, from + b, count * sizeof(float));
        });
    }
    // A module's logit looks at what its gates get from the input, and at what they get from the state.
    template <class Function>
    void each_logit(Function function) const {
        for (int64_t m = 0; m < M; ++m)
            for (int64_t half = 0; half < 2; ++half)
                for (int64_t gate = 0; gate < 4; ++gate)
                    for (int64_t h = 0; h < H; h += LANES)
                        function(((m * 2 + half) * 4 + gate) * H + h,
                                 half * S + gates_of(m, h) + gate * units_from(h), own_units_from(h));
    }

    // What depends on the weights alone.
    void prepare() {
        for (int64_t i = 0; i < R * E; ++i)
            rule_rows[i] = parameter[ENCODER_HIDDEN][F * E + i] + parameter[ENCODER_HIDDEN_BIAS][i % E];
        std::fill(d_rule_rows, d_rule_rows + R * E, 0.0f);
        prepare_gates();
        std::fill(decoder, decoder + H * P, 0.0f);
        std::fill(d_decoder, d_decoder + H * P, 0.0f);
        std::fill(decoder_bias, decoder_bias + P, 0.0f);
        std::fill(d_decoder_bias, d_decoder_bias + P, 0.0f);
        for (int64_t h = 0; h < H; ++h)
            std::memcpy(decoder + h * P, parameter[DECODER_HIDDEN] + h * H, H * sizeof(float));
        std::memcpy(decoder_bias, parameter[DECODER_HIDDEN_BIAS], H * sizeof(float));
        std::fill(decoder_turned, decoder_turned + P * P, 0.0f);
        transpose(H, P, decoder, P, decoder_turned, P);
        std::fill(readout_turned, readout_turned + O * P, 0.0f);
        transpose(H, O, parameter[DECODER_READOUT], O, readout_turned, P);
        transpose(E, E, parameter[ENCODER_READOUT], encoder_turned);
        std::fill(table, table + R * M, 0.0f);
        std::fill(d_table, d_table + R * M, 0.0f);
        if (step.routing == Routing::rule) table_of_rules(R, H, M, scorer(), table_units, table);
        if (step.routing == Routing::table) std::memcpy(table, step.table, R * M * sizeof(float));
        // padding, and the row behind the last positions
        for (int64_t n = 0; V < P && n < most; ++n)
            for (float* row : {from_input, from_state, gates})
                if (row != from_state || own_logits()) std::fill(row + n * L + G, row + (n + 1) * L, 0.0f);
        std::fill(seen, seen + (most + 1) * X, 0.0f);
        std::fill(d_seen + most * X, d_seen + (most + 1) * X, 0.0f);
    }

    void prepare_gates() {
        const int64_t columns = Q * S;
        std::fill(bank, bank + X * W, 0.0f);
        std::fill(bias, bias + columns, 0.0f);
        std::fill(d_bias, d_bias + columns, 0.0f);
        spread(E, parameter[INPUT_GATES], bank);
        spread(H, parameter[STATE_GATES], bank + D * W);
        if (parameter[INPUT_GATES_BIAS])
            each_gate(1, [&](int64_t a, int64_t b, int64_t count) {
                for (int64_t i = 0; i < count; ++i)
                    bias[b + i] = parameter[INPUT_GATES_BIAS][a + i] + parameter[STATE_GATES_BIAS][a + i];
            });
        for (int64_t q = 0; q < Q; ++q) pack(X, S, bank + q * S, W, bank_panels + q * S * X);
        pack_transposed(D, columns, bank, W, code_panels);
        pack_transposed(P, columns, bank + D * W, W, state_panels);
        std::fill(d_bank, d_bank + X * W, 0.0f);
        if (!own_logits()) return;
        std::fill(logits, logits + 2 * S + LANES, 0.0f);
        std::fill(d_logits, d_logits + 2 * S + LANES, 0.0f);
        each_logit([&](int64_t a, int64_t b, int64_t count) {
            std::memcpy(logits + b, parameter[SCORER] + a, count * sizeof(float));
        });
    }

    // Give each position of each sample its row, and copy what belongs there.
    void read(int64_t first, int64_t samples) {
        std::fill(begin_of.begin(), begin_of.end(), 0);
        for (int64_t b = 0; b < samples; ++b)
            for (int64_t t = 0; t < T; ++t) ++begin_of[kind_of(step.rule[first + b * T + t]) * T + t + 1];
        for (int64_t i = 0; i < Q * T; ++i) begin_of[i + 1] += begin_of[i];
        std::vector<int64_t> free(begin_of);
        for (int64_t b = 0; b < samples; ++b) {
            int64_t before = -1;
            for (int64_t t = 0; t < T; ++t) {
                const int64_t from = first + b * T + t;
                const int64_t to = free[kind_of(step.rule[from]) * T + t]++;
                std::memcpy(x + to * F, step.inputs + from * F, F * sizeof(float));
                std::memcpy(goal + to * O, step.target + from * O, O * sizeof(float));
                rules[to] = static_cast<int32_t>(step.rule[from]);
                sample[to] = static_cast<int32_t>(b);
                origin[to] = from;
                if (given()) std::memcpy(weight + to * M, step.given + from * M, M * sizeof(float));
                if (t) {
                    next[before] = static_cast<int32_t>(to);
                } else {
                    std::fill(seen + to * X + D, seen + (to + 1) * X, 0.0f);
                    std::fill(cell + to * P, cell + (to + 1) * P, 0.0f);
                }
                before = to;
            }
            next[before] = static_cast<int32_t>(most);
        }
    }

    void forward(int64_t rows) {
        product(rows, E, F, plain(x, F), parameter[ENCODER_HIDDEN], E, units, E,
                {Start::rows, rule_rows, rules.data(), E, true});
        product(rows, E, E, plain(units, E), parameter[ENCODER_READOUT], E, seen, X,
                {Start::row, parameter[ENCODER_READOUT_BIAS]});
        if (own_logits())
            product(rows, S, 0, D, plain(seen, X), Packed{bank_panels, X}, from_input, L,
                    {Start::row, bias});
        for (int64_t t = 0; t < T; ++t)
            for (int64_t q = 0; q < Q; ++q)
                if (begin_of[q * T + t + 1] > begin_of[q * T + t])
                    advance(t, q, begin_of[q * T + t], begin_of[q * T + t + 1]);
        product(rows, P, H, plain(after, P), decoder, P, decoded, P,
                {Start::row, decoder_bias, nullptr, 0, true});
        product(rows, O, H, plain(decoded, P), parameter[DECODER_READOUT], O, predicted, O,
                {Start::row, parameter[DECODER_READOUT_BIAS]});
    }

    // Position t of the rows first .. last - 1, which are of kind q.
    void advance(int64_t t, int64_t q, int64_t first, int64_t last) {
        const Matrix rows = plain(seen + first * X, X);
        if (own_logits()) {
            product(last - first, S, D, t ? H : 0, {rows.data + D, X, 1}, Packed{bank_panels, X},
                    from_state + first * L, L);
            logit(first, last - first);
        } else if (weighted() && !given()) {
            for (int64_t n = first; n < last; ++n)
                std::memcpy(weight + n * M, table + rules[n] * M, M * sizeof(float));
        }
        int64_t made = own_logits() ? S : 0;  // columns of gates
        for (int64_t m = 0; m < K; ++m)
            for (int64_t h = 0; h < H; h += LANES) {
                while (made < gates_of(m, h) + 4 * units_from(h)) {
                    const int64_t width = vectors_of_panel(S - made) * LANES, column = q * S + made;
                    // the first state is zero, and padded states are always
                    product(last - first, width, 0, t ? D + H : D, rows, Packed{bank_panels + column * X, X},
                            gates + first * L + made, L, {Start::row, bias + column});
                    made += width;
                }
                // two loops, so that many rows are under way at once in each
                for (int64_t n = first; n < last; ++n) bend_gates(n, m, h);
                for (int64_t n = first; n < last; ++n) move(n, m, h);
            }
    }

    void logit(int64_t row, int64_t samples) {
        for (int64_t n = row; n < row + samples; ++n)
            for (int64_t m = 0; m < M; ++m) {
                Vector sum{};
                for (int64_t h = 0; h < H; h += LANES)
                    for (int gate = 0; gate < 4; ++gate) {
                        const int64_t units = units_from(h), k = gates_of(m, h) + gate * units;
                        const Vector input = own_part(load(from_input + n * L + k), units);
                        const Vector state = own_part(load(from_state + n * L + k), units);
                        sum += rectified(input) * load(logits + k) + rectified(state) * load(logits + S + k);
                    }
                weight[n * M + m] = sum_of_lanes(sum);
            }
        softmax_rows(samples, M, weight + row * M);
    }

    // The gates of a module's units from h on, bent.
    void bend_gates(int64_t n, int64_t m, int64_t h) {
        const int64_t at = n * L + gates_of(m, h), units = units_from(h);
        Vector gate[4];
        for (int i = 0; i < 4; ++i) {
            gate[i] = load(from_input + at + i * units);
            if (own_logits()) gate[i] += load(from_state + at + i * units);
        }
        const Vector last = gate[3];
        bend(gate);
        store_gates(gates + at, units, gate, last);
    }

    // What a module proposes for its units from h on is mixed into the next state of row n.
    void move(int64_t n, int64_t m, int64_t h) {
        const float* gate = gates + n * L + gates_of(m, h);
        const int64_t units = units_from(h), to = next[n];
        Vector out = load(gate + 2 * units);
        Vector new_cell = load(gate + units) * load(cell + n * P + h) + load(gate) * load(gate + 3 * units);
        out = own_part(out, units), new_cell = own_part(new_cell, units);
        const Vector curved = hyperbolic_tangent(new_cell);
        store(bent + (n * K + m) * P + h, curved);
        Vector new_state = out * curved;
        if (weighted()) {
            const float share = weight[n * M + m];
            new_state *= share;
            new_cell *= share;
            if (m) {
                new_state += load(after + n * P + h);
                new_cell += load(cell + to * P + h);
            }
        }
        store(after + n * P + h, new_state);
        store(seen + to * X + D + h, new_state);
        store(cell + to * P + h, new_cell);
    }

    // What is beyond the units of a gate is overwritten by the next gate, or stays behind the last.
    static void store_gates(float* to, int64_t units, const Vector gate[4], Vector last) {
        for (int i = 0; i < 3; ++i) store(to + i * units, gate[i]);
        store(to + 3 * units, units < LANES ? (first_lanes(units) ? gate[3] : last) : gate[3]);
    }
    static Vector own_part(Vector value, int64_t units) {
        return units < LANES ? (first_lanes(units) ? value : Vector{}) : value;
    }

    // The derivative of the loss by the predictions takes their place.
    float loss(int64_t rows) {
        const float share = 1.0f / static_cast<float>(N * T * O);
        float total = 0;
        for (int64_t n = 0; n < rows; ++n) {
            float row = 0;
            for (int64_t i = n * O; i < (n + 1) * O; ++i) {
                float back;
                const float own = loss_of(predicted[i], goal[i], step.classification, back);
                total += own;
                row += own;
                predicted[i] = back * share;
            }
            if (step.cost) step.cost[origin[n]] = row / static_cast<float>(O);
        }
        return total;
    }

    void backward(int64_t rows) {
        product_over_samples(H, O, rows, decoded, P, predicted, O, gradient[DECODER_READOUT], O, true);
        add_rows(rows, O, predicted, gradient[DECODER_READOUT_BIAS]);
        product(rows, P, O, plain(predicted, O), readout_turned, P, d_decoded, P);
        keep_where_positive(rows * P, decoded, d_decoded);
        product_over_samples(H, P, rows, after, P, d_decoded, P, d_decoder, P, true);
        add_rows(rows, P, d_decoded, d_decoder_bias);
        product(rows, P, H, plain(d_decoded, P), decoder_turned, P, d_after, P);
        std::fill(d_cell, d_cell + group * P, 0.0f);
        for (int64_t t = T - 1; t >= 0; --t)
            for (int64_t q = 0; q < Q; ++q)
                if (begin_of[q * T + t + 1] > begin_of[q * T + t])
                    retreat(t, q, begin_of[q * T + t], begin_of[q * T + t + 1]);
        const float *d_from_input = own_logits() ? from_input : gates;
        const float *d_from_state = own_logits() ? from_state : gates;
        for (int64_t q = 0; q < Q; ++q) {
            const int64_t first = begin_of[q * T], later = begin_of[q * T + 1], last = begin_of[(q + 1) * T];
            float *d_columns = d_bank + q * S, *d_states = d_columns + D * W;
            const auto add = [&](int64_t depth, int64_t from, int64_t to, int64_t column,
                                 const float* d_from, float* sum) {
                if (to > from)
                    product_over_samples(depth, S, to - from, seen + from * X + column, X,
                                         d_from + from * L, L, sum, W, true);
            };
            // the first state is zero
            add(D, first, own_logits() ? last : later, 0, d_from_input, d_columns);
            add(own_logits() ? H : D + H, later, last, own_logits() ? D : 0, d_from_state,
                own_logits() ? d_states : d_columns);
            if (parameter[INPUT_GATES_BIAS])
                add_rows(last - first, S, d_from_input + first * L, L, d_bias + q * S);
        }
        product_over_samples(E, E, rows, units, E, d_seen, X, gradient[ENCODER_READOUT], E, true);
        add_rows(rows, E, d_seen, X, gradient[ENCODER_READOUT_BIAS]);
        product(rows, E, E, plain(d_seen, X), encoder_turned, E, d_units, E);
        keep_where_positive(rows * E, units, d_units);
        product_over_samples(F, E, rows, x, F, d_units, E, gradient[ENCODER_HIDDEN], E, true);
        for (int64_t n = 0; n < rows; ++n) add_rows(1, E, d_units + n * E, d_rule_rows + rules[n] * E);
    }

    // Position t backwards, for the rows first .. last - 1 of kind q.
    void retreat(int64_t t, int64_t q, int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
            if (learned()) share_back(n);
            move_back(n);
            if (own_logits()) logit_back(n);
        }
        const float *d_from_input = own_logits() ? from_input : gates;
        const float *d_from_state = own_logits() ? from_state : gates;
        product(last - first, D, q * S, G, plain(d_from_input + first * L, L),
                Packed{code_panels, Q * S}, d_seen + first * X, X);
        if (t)
            product(last - first, P, q * S, G, plain(d_from_state + first * L, L),
                    Packed{state_panels, Q * S}, d_seen + first * X + D, X);
    }

    // The gradient of a row's weights from what they mix; of its logits where it has its own.
    void share_back(int64_t n) {
        const float *d_h = d_after + n * P, *d_later = d_seen + next[n] * X + D;
        const float *before = cell + n * P, *d_c = d_cell + sample[n] * P;
        for (int64_t m = 0; m < M; ++m) {
            Vector sum{};
            for (int64_t h = 0; h < H; h += LANES) {
                const float* gate = gates + n * L + gates_of(m, h);
                const int64_t units = units_from(h);
                const Vector own_cell =
                    load(gate + units) * load(before + h) + load(gate) * load(gate + 3 * units);
                const Vector own_state = load(gate + 2 * units) * load(bent + (n * M + m) * P + h);
                sum += (load(d_h + h) + load(d_later + h)) * own_state + load(d_c + h) * own_cell;
            }
            d_weight[m] = sum_of_lanes(sum);
        }
        if (own_logits())
            softmax_rows_back(1, M, weight + n * M, d_weight);
        else if (given())
            std::memcpy(step.d_given + origin[n] * M, d_weight, M * sizeof(float));
        else
            add_rows(1, M, d_weight, d_table + rules[n] * M);
    }

    // The gradient of gates before they are bent takes the place of the gates; that of the cell one
    // position earlier takes the place of this one's.
    void move_back(int64_t n) {
        const float *d_later = d_seen + next[n] * X + D, *before = cell + n * P;
        float* d_c = d_cell + sample[n] * P;
        for (int64_t h = 0; h < H; h += LANES) {
            const int64_t units = units_from(h);
            const Vector d_h = load(d_after + n * P + h) + load(d_later + h), d_next = load(d_c + h);
            Vector d_before{};
            for (int64_t m = 0; m < K; ++m) {
                float* gate = gates + n * L + gates_of(m, h);
                const Vector in = load(gate), forget = load(gate + units);
                const Vector out = load(gate + 2 * units), proposal = load(gate + 3 * units);
                const Vector curved = load(bent + (n * K + m) * P + h);
                const float share = weighted() ? weight[n * M + m] : 1.0f;
                const Vector d_own = share * d_h;
                const Vector d_own_cell = share * d_next + d_own * out * (1.0f - curved * curved);
                d_before += d_own_cell * forget;
                const Vector d_gate[4] = {d_own_cell * proposal * in * (1.0f - in),
                                          d_own_cell * load(before + h) * forget * (1.0f - forget),
                                          d_own * curved * out * (1.0f - out),
                                          d_own_cell * in * (1.0f - proposal * proposal)};
                store_gates(gate, units, d_gate, proposal);
            }
            store(d_c + h, own_part(d_before, units));
        }
    }

    // What the modules' own logits add; gradients take the places of from_input and from_state.
    void logit_back(int64_t n) {
        for (int64_t m = 0; m < M; ++m) {
            const float back = d_weight[m];
            const int64_t end = gates_of(m + 1, 0);
            for (int64_t k = gates_of(m, 0); k < end; k += LANES) {
                const Vector d_gate = load(gates + n * L + k);
                const auto half = [&](float* values, int64_t at) {
                    const Vector value = load(values + n * L + k), before = load(d_logits + at);
                    const Vector positive = value > 0 ? fill(back) : Vector{};
                    Vector d_value = d_gate + positive * load(logits + at), sum = before + positive * value;
                    if (end - k < LANES) {
                        const IntVector own = first_lanes(end - k);
                        d_value = own ? d_value : value, sum = own ? sum : before;
                    }
                    store(values + n * L + k, d_value);
                    store(d_logits + at, sum);
                };
                half(from_input, k);
                half(from_state, S + k);
            }
        }
    }

    void finish() {
        for (int64_t i = 0; i < R * E; ++i) {
            gradient[ENCODER_HIDDEN][F * E + i] = d_rule_rows[i];
            gradient[ENCODER_HIDDEN_BIAS][i % E] += d_rule_rows[i];
        }
        collect(E, d_bank, gradient[INPUT_GATES]);
        collect(H, d_bank + D * W, gradient[STATE_GATES]);
        if (parameter[INPUT_GATES_BIAS]) {
            collect(1, d_bias, gradient[INPUT_GATES_BIAS]);
            collect(1, d_bias, gradient[STATE_GATES_BIAS]);
        }
        for (int64_t h = 0; h < H; ++h)
            std::memcpy(gradient[DECODER_HIDDEN] + h * H, d_decoder + h * P, H * sizeof(float));
        std::memcpy(gradient[DECODER_HIDDEN_BIAS], d_decoder_bias, H * sizeof(float));
        if (own_logits())
            each_logit([&](int64_t a, int64_t b, int64_t count) {
                std::memcpy(gradient[SCORER] + a, d_logits + b, count * sizeof(float));
            });
        if (step.routing == Routing::rule)
            table_of_rules_back(R, H, M, scorer(), table_units, table, d_table, turned_table,
                                gradient[TABLE_HIDDEN], gradient[TABLE_HIDDEN_BIAS],
                                gradient[TABLE_READOUT], gradient[TABLE_READOUT_BIAS]);
    }
};

}  // namespace

MODEVAL_FAMILY(Recurrent)
