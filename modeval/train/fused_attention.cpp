// One training step of a cohort of attention networks made of modules; the equations are those of
// modeval/nn/attention.py. A seed is worked off in groups of LANES samples that stay in the cache,
// forward and backward; gradients of the weights add up over the groups. Dense products work on rows
// (one for each position of each sample of the group); attention itself on vectors that hold the
// same number for all samples of the group, so that its small products need no other layout.
//
// Letters: T positions, F features, E units of an encoder, R rules, M modules, A heads of all
// modules, D width of a head, H hidden units of a module, C = M H, rows = samples x positions.

#include "fused_kernels.cpp"

namespace {

// The order of modeval.train.fused.ATTENTION.
enum Parameter {
    ENCODER_HIDDEN, ENCODER_HIDDEN_BIAS, ENCODER_READOUT, ENCODER_READOUT_BIAS,
    QUERY, QUERY_BIAS, KEY, KEY_BIAS, VALUE, VALUE_BIAS, POSITION, POSITION_BIAS,
    EXPERT_HIDDEN, EXPERT_HIDDEN_BIAS, EXPERT_READOUT, EXPERT_READOUT_BIAS,
    DECODER_HIDDEN, DECODER_HIDDEN_BIAS, DECODER_READOUT, DECODER_READOUT_BIAS,
    SCORER, SCORER_BIAS, TABLE_HIDDEN, TABLE_HIDDEN_BIAS, TABLE_READOUT, TABLE_READOUT_BIAS,
    PARAMETERS
};

// out[j] = sum over k of x[k] y[j][k] for vectors that stand apart by the given steps.
struct Steps {
    int64_t x, y_k, y_j, out;
};
template <int COUNT>
inline void combine_some(int64_t depth, const float* x, const float* y, float* out, Steps steps) {
    Vector sum[COUNT];
    for (int j = 0; j < COUNT; ++j) sum[j] = Vector{};
    for (int64_t k = 0; k < depth; ++k) {
        const Vector left = load(x + k * steps.x * LANES);
        for (int j = 0; j < COUNT; ++j)
            sum[j] += left * load(y + (k * steps.y_k + j * steps.y_j) * LANES);
    }
    for (int j = 0; j < COUNT; ++j) store(out + j * steps.out * LANES, sum[j]);
}
inline void combine(int64_t count, int64_t depth, const float* x, const float* y, float* out,
                    Steps steps) {
    int64_t j = 0;
    const auto at = [&](int64_t index) { return y + index * steps.y_j * LANES; };
    const auto to = [&](int64_t index) { return out + index * steps.out * LANES; };
    for (; j + 8 <= count; j += 8) combine_some<8>(depth, x, at(j), to(j), steps);
    for (; j + 4 <= count; j += 4) combine_some<4>(depth, x, at(j), to(j), steps);
    for (; j + 2 <= count; j += 2) combine_some<2>(depth, x, at(j), to(j), steps);
    for (; j < count; ++j) combine_some<1>(depth, x, at(j), to(j), steps);
}

struct Attention : Parameters<PARAMETERS> {
    const int64_t N, T, F, E, R, M, A, D, H, C, K;
    const int64_t stream;   // columns of all queries, padded to whole vectors
    const int64_t columns;  // queries, keys, values, positions
    const int64_t most;     // rows of a group
    Arena arena;
    // of the seed
    float *rule_rows, *d_rule_rows, *bank, *d_bank, *bank_bias, *d_bank_bias, *table, *d_table;
    float *table_units, *expert_turned, *bank_turned, *readout_turned, *readout_bias_turned;
    float *decoder_turned, *encoder_turned, *turned;
    // of the group, rows first
    float *units, *d_units, *code, *d_code, *projected, *found, *d_found, *hidden, *d_hidden;
    float *scaled, *weight, *d_weight, *mixed, *d_mixed, *decoded, *d_decoded;
    // of the group, module after module: where the rule alone chooses a module for each row
    float *seen, *d_seen, *chosen_mixed;
    std::vector<int32_t> place;             // of each row
    std::vector<int64_t> first_of_module;  // and behind the last
    // of the group, samples last
    float *lanes, *d_lanes, *shares, *d_shares, *found_lanes;
    std::vector<int32_t> rules;
    int64_t row_at = 0;  // first row of the group, of all rows of all seeds

    Attention(const ModevalStep& s, float* memory)
        : Parameters(s, {(s.features + s.rules) * s.encoder, s.encoder, s.encoder * s.encoder,
                         s.encoder, s.encoder * s.modules * s.heads * s.width,
                         s.modules * s.heads * s.width, s.encoder * s.modules * s.heads * s.width,
                         s.modules * s.heads * s.width, s.encoder * s.modules * s.heads * s.width,
                         s.modules * s.heads * s.width, s.encoder * s.modules * s.width,
                         s.modules * s.width, s.modules * s.width * (s.heads + 1) * s.hidden,
                         s.modules * s.hidden, s.modules * s.hidden * s.encoder,
                         s.modules * s.encoder, s.encoder * s.encoder, s.encoder, s.encoder, 1,
                         s.modules * s.hidden, s.modules, s.rules * s.width, s.width,
                         s.width * s.modules, s.modules}),
          N(s.samples), T(s.positions), F(s.features), E(s.encoder), R(s.rules), M(s.modules),
          A(s.modules * s.heads), D(s.width), H(s.hidden), C(M * H), K(D * (s.heads + 1)),
          stream(whole_vectors(A * D)), columns(3 * stream + whole_vectors(M * D)),
          most(LANES * T), arena{memory}, place(most), first_of_module(M + 1), rules(most) {
        for (int p = 0; p < PARAMETERS; ++p) gradient[p] = arena.take(sizes[p]);
        rule_rows = arena.take(R * E), d_rule_rows = arena.take(R * E);
        bank = arena.take(E * columns), d_bank = arena.take(E * columns);
        bank_bias = arena.take(columns), d_bank_bias = arena.take(columns);
        bank_turned = arena.take(E * columns), expert_turned = arena.take(M * K * H);
        table = arena.take(R * M), d_table = arena.take(R * M), table_units = arena.take(R * D);
        readout_turned = arena.take(C * E), readout_bias_turned = arena.take(M * E);
        decoder_turned = arena.take(E * E), encoder_turned = arena.take(E * E);
        turned = arena.take(D * M);
        units = arena.take(most * E), d_units = arena.take(most * E);
        code = arena.take(most * E), d_code = arena.take(most * E);
        projected = arena.take(most * columns + LANES);
        found = arena.take(most * stream), d_found = arena.take(most * stream);
        hidden = arena.take(most * C), d_hidden = arena.take(most * C);
        scaled = arena.take(most * C);
        weight = arena.take(most * M), d_weight = arena.take(most * M);
        mixed = arena.take(most * E), d_mixed = arena.take(most * E);
        decoded = arena.take(most * E), d_decoded = arena.take(most * E);
        lanes = arena.take(3 * stream * most), d_lanes = arena.take(3 * stream * most);
        shares = arena.take(A * T * most), d_shares = arena.take(T * most);
        found_lanes = arena.take(stream * most);
        const int64_t sorted = chosen() ? most : 0;
        seen = arena.take(sorted * K), d_seen = arena.take(sorted * K);
        chosen_mixed = arena.take(sorted * E);
    }

    bool weighted() const { return M > 1; }
    bool own_logits() const { return step.routing == Routing::module; }
    bool given() const { return step.routing == Routing::given; }
    bool chosen() const { return weighted() && step.routing == Routing::chosen; }
    RuleScorer scorer() const {
        return {parameter[TABLE_HIDDEN], parameter[TABLE_HIDDEN_BIAS], parameter[TABLE_READOUT],
                parameter[TABLE_READOUT_BIAS]};
    }

    void run(int64_t seed) {
        begin(seed);
        prepare();
        float total = 0;
        for (int64_t first = 0; first < N; first += LANES) {
            const int64_t samples = N - first < LANES ? N - first : LANES, rows = samples * T;
            const int64_t at = row_at = (seed * N + first) * T;
            for (int64_t n = 0; n < rows; ++n) rules[n] = static_cast<int32_t>(step.rule[at + n]);
            forward(step.inputs + at * F, rows);
            total += loss(step.target + at, rows);
            backward(step.inputs + at * F, rows);
        }
        step.loss[seed] = total / static_cast<float>(N * T);
        finish();
        update(seed);
    }

    // What depends on the weights alone.
    void prepare() {
        for (int64_t i = 0; i < R * E; ++i)
            rule_rows[i] = parameter[ENCODER_HIDDEN][F * E + i] + parameter[ENCODER_HIDDEN_BIAS][i % E];
        std::fill(d_rule_rows, d_rule_rows + R * E, 0.0f);
        std::fill(bank, bank + E * columns, 0.0f);
        std::fill(d_bank, d_bank + E * columns, 0.0f);
        std::fill(bank_bias, bank_bias + columns, 0.0f);
        std::fill(d_bank_bias, d_bank_bias + columns, 0.0f);
        for (int part = 0; part < 4; ++part) {
            const int64_t width = part < 3 ? A * D : M * D;
            for (int64_t e = 0; e < E; ++e)
                std::memcpy(bank + e * columns + part * stream, parameter[QUERY + 2 * part] + e * width,
                            width * sizeof(float));
            std::memcpy(bank_bias + part * stream, parameter[QUERY_BIAS + 2 * part],
                        width * sizeof(float));
        }
        transpose(E, columns, bank, bank_turned);
        for (int64_t m = 0; m < M; ++m)
            transpose(K, H, parameter[EXPERT_HIDDEN] + m * K * H, expert_turned + m * K * H);
        transpose(C, E, parameter[EXPERT_READOUT], readout_turned);
        transpose(M, E, parameter[EXPERT_READOUT_BIAS], readout_bias_turned);
        transpose(E, E, parameter[DECODER_HIDDEN], decoder_turned);
        transpose(E, E, parameter[ENCODER_READOUT], encoder_turned);
        for (int part = 0; part < 3; ++part)  // columns of no head
            std::fill(d_lanes + (part * stream + A * D) * most, d_lanes + (part + 1) * stream * most,
                      0.0f);
        std::fill(table, table + R * M, 0.0f);
        std::fill(d_table, d_table + R * M, 0.0f);
        if (step.routing == Routing::rule) table_of_rules(R, D, M, scorer(), table_units, table);
        if (step.routing == Routing::table) std::memcpy(table, step.table, R * M * sizeof(float));
    }

    void forward(const float* x, int64_t rows) {
        product(rows, E, F, plain(x, F), parameter[ENCODER_HIDDEN], E, units, E,
                {Start::rows, rule_rows, rules.data(), E, true});
        product(rows, E, E, plain(units, E), parameter[ENCODER_READOUT], E, code, E,
                {Start::row, parameter[ENCODER_READOUT_BIAS]});
        product(rows, columns, E, plain(code, E), bank, columns, projected, columns,
                {Start::row, bank_bias});
        std::fill(projected + rows * columns, projected + most * columns, 0.0f);
        attend();
        if (chosen())
            experts_chosen(rows);
        else
            experts(rows);
        product(rows, E, E, plain(mixed, E), parameter[DECODER_HIDDEN], E, decoded, E,
                {Start::row, parameter[DECODER_HIDDEN_BIAS], nullptr, 0, true});
    }

    // Every module for every row.
    void experts(int64_t rows) {
        const float* positions = projected + 3 * stream;
        for (int64_t m = 0; m < M; ++m) {
            const float* weights = parameter[EXPERT_HIDDEN] + m * K * H;
            product(rows, H, K - D, plain(found + m * (K - D), stream), weights, H, hidden + m * H, C,
                    {Start::row, parameter[EXPERT_HIDDEN_BIAS] + m * H});
            product(rows, H, D, plain(positions + m * D, columns), weights + (K - D) * H, H,
                    hidden + m * H, C, {Start::add, nullptr, nullptr, 0, true});
        }
        if (weighted()) {
            if (own_logits())
                own_weights(rows, M, H, hidden, parameter[SCORER], parameter[SCORER_BIAS], weight);
            else if (given())
                std::memcpy(weight, step.given + row_at * M, rows * M * sizeof(float));
            else
                for (int64_t n = 0; n < rows; ++n)
                    std::memcpy(weight + n * M, table + rules[n] * M, M * sizeof(float));
            scale_rows(rows * M, H, weight, hidden, scaled);
            product(rows, E, M, plain(weight, M), parameter[EXPERT_READOUT_BIAS], E, mixed, E);
            product(rows, E, C, plain(scaled, C), parameter[EXPERT_READOUT], E, mixed, E, ADD);
        } else {
            product(rows, E, C, plain(hidden, C), parameter[EXPERT_READOUT], E, mixed, E,
                    {Start::row, parameter[EXPERT_READOUT_BIAS]});
        }
    }

    // For each row the module that its rule chooses: rows are put module after module.
    void experts_chosen(int64_t rows) {
        std::fill(first_of_module.begin(), first_of_module.end(), 0);
        for (int64_t n = 0; n < rows; ++n) ++first_of_module[step.chosen[rules[n]] + 1];
        for (int64_t m = 0; m < M; ++m) first_of_module[m + 1] += first_of_module[m];
        std::vector<int64_t> free(first_of_module);
        for (int64_t n = 0; n < rows; ++n) {
            const int64_t m = step.chosen[rules[n]];
            place[n] = static_cast<int32_t>(free[m]++);
            std::memcpy(seen + place[n] * K, found + n * stream + m * (K - D), (K - D) * sizeof(float));
            std::memcpy(seen + place[n] * K + K - D, projected + n * columns + 3 * stream + m * D,
                        D * sizeof(float));
        }
        each_module([&](int64_t m, int64_t first, int64_t count) {
            product(count, H, K, plain(seen + first * K, K), parameter[EXPERT_HIDDEN] + m * K * H, H,
                    hidden + first * H, H,
                    {Start::row, parameter[EXPERT_HIDDEN_BIAS] + m * H, nullptr, 0, true});
            product(count, E, H, plain(hidden + first * H, H), parameter[EXPERT_READOUT] + m * H * E, E,
                    chosen_mixed + first * E, E, {Start::row, parameter[EXPERT_READOUT_BIAS] + m * E});
        });
        for (int64_t n = 0; n < rows; ++n)
            std::memcpy(mixed + n * E, chosen_mixed + place[n] * E, E * sizeof(float));
    }

    // Call with (module, its first row, its rows) for each module that is chosen.
    template <class Function>
    void each_module(Function function) const {
        for (int64_t m = 0; m < M; ++m)
            if (const int64_t count = first_of_module[m + 1] - first_of_module[m])
                function(m, first_of_module[m], count);
    }

    void experts_chosen_back(int64_t rows) {
        float* d_mixed_sorted = chosen_mixed;
        for (int64_t n = 0; n < rows; ++n)
            std::memcpy(d_mixed_sorted + place[n] * E, d_mixed + n * E, E * sizeof(float));
        each_module([&](int64_t m, int64_t first, int64_t count) {
            const float *units_of = hidden + first * H, *back = d_mixed_sorted + first * E;
            float* d_units_of = d_hidden + first * H;
            product_over_samples(H, E, count, units_of, H, back, E, gradient[EXPERT_READOUT] + m * H * E,
                                 E, true);
            add_rows(count, E, back, gradient[EXPERT_READOUT_BIAS] + m * E);
            product(count, H, E, plain(back, E), readout_turned + m * H, C, d_units_of, H);
            keep_where_positive(count * H, units_of, d_units_of);
            add_rows(count, H, d_units_of, gradient[EXPERT_HIDDEN_BIAS] + m * H);
            product_over_samples(K, H, count, seen + first * K, K, d_units_of, H,
                                 gradient[EXPERT_HIDDEN] + m * K * H, H, true);
            product(count, K, H, plain(d_units_of, H), expert_turned + m * K * H, K,
                    d_seen + first * K, K);
        });
        std::fill(d_found, d_found + rows * stream, 0.0f);
        for (int64_t n = 0; n < rows; ++n) {
            const int64_t m = step.chosen[rules[n]];
            const float* from = d_seen + place[n] * K;
            float* positions = projected + n * columns + 3 * stream;
            std::memcpy(d_found + n * stream + m * (K - D), from, (K - D) * sizeof(float));
            std::fill(positions, positions + M * D, 0.0f);
            std::memcpy(positions + m * D, from + K - D, D * sizeof(float));
        }
    }

    // From rows (samples, positions) of `columns` numbers to (columns, positions, samples).
    void to_lanes(const float* from, int64_t from_width, int64_t count, float* to) const {
        for (int64_t t = 0; t < T; ++t)
            for (int64_t c = 0; c < count; c += LANES)
                transpose_square(from + t * from_width + c, T * from_width, to + (c * T + t) * LANES,
                                 T * LANES);
    }
    void from_lanes(const float* from, int64_t count, float* to, int64_t to_width) const {
        for (int64_t t = 0; t < T; ++t)
            for (int64_t c = 0; c < count; c += LANES)
                transpose_square(from + (c * T + t) * LANES, T * LANES, to + t * to_width + c,
                                 T * to_width);
    }

    // What each head finds at the other positions: found = softmax(query key / sqrt(D)) value.
    void attend() {
        to_lanes(projected, columns, 3 * stream, lanes);
        const float scale = 1.0f / std::sqrt(static_cast<float>(D));
        const int64_t part = stream * most;
        for (int64_t head = 0; head < A; ++head) {
            const float *query = lanes + head * D * most, *key = query + part, *value = key + part;
            float *share = shares + head * T * most, *to = found_lanes + head * D * most;
            for (int64_t t = 0; t < T; ++t) {
                float* row = share + t * most;
                combine(T, D, query + t * LANES, key, row, {T, T, 1, 1});
                softmax_of_others(row, t, scale);
                combine(D, T, row, value, to + t * LANES, {1, 1, T, T});
            }
        }
        from_lanes(found_lanes, stream, found, stream);
    }

    void softmax_of_others(float* row, int64_t own, float scale) const {
        Vector largest = fill(-INFINITY), sum{};
        for (int64_t s = 0; s < T; ++s) {
            if (s == own) continue;
            const Vector value = load(row + s * LANES) * scale;
            largest = value < largest ? largest : value;  // NaN wins
            store(row + s * LANES, value);
        }
        for (int64_t s = 0; s < T; ++s) {
            const Vector value = s == own ? Vector{} : exponential(load(row + s * LANES) - largest);
            sum += value;
            store(row + s * LANES, value);
        }
        const Vector share = 1.0f / sum;
        for (int64_t s = 0; s < T; ++s) store(row + s * LANES, load(row + s * LANES) * share);
    }

    // From d_found to the gradient of queries, keys and values, in `projected`.
    void attend_back() {
        to_lanes(d_found, stream, stream, found_lanes);
        const float scale = 1.0f / std::sqrt(static_cast<float>(D));
        const int64_t part = stream * most;
        for (int64_t head = 0; head < A; ++head) {
            const int64_t at = head * D * most;
            const float *query = lanes + at, *key = query + part, *value = key + part;
            const float *share = shares + head * T * most, *back = found_lanes + at;
            float *d_query = d_lanes + at, *d_key = d_query + part, *d_value = d_key + part;
            for (int64_t t = 0; t < T; ++t) {
                float* row = d_shares + t * most;
                const float* own = share + t * most;
                combine(T, D, back + t * LANES, value, row, {T, T, 1, 1});
                Vector mean{};
                for (int64_t s = 0; s < T; ++s) mean += load(own + s * LANES) * load(row + s * LANES);
                for (int64_t s = 0; s < T; ++s)
                    store(row + s * LANES,
                          load(own + s * LANES) * (load(row + s * LANES) - mean) * scale);
                combine(D, T, row, key, d_query + t * LANES, {1, 1, T, T});
            }
            for (int64_t s = 0; s < T; ++s) {
                combine(D, T, share + s * LANES, back, d_value + s * LANES, {T, 1, T, T});
                combine(D, T, d_shares + s * LANES, query, d_key + s * LANES, {T, 1, T, T});
            }
        }
        from_lanes(d_lanes, 3 * stream, projected, columns);
    }

    float loss(const float* target, int64_t rows) {
        const float *row = parameter[DECODER_READOUT], share = 1.0f / static_cast<float>(N * T);
        float total = 0;
        for (int64_t n = 0; n < rows; ++n) {
            const float prediction = dot(E, decoded + n * E, row) + parameter[DECODER_READOUT_BIAS][0];
            float back;
            const float own = loss_of(prediction, target[n], step.classification, back);
            total += own;
            if (step.cost) step.cost[row_at + n] = own;
            back *= share;
            gradient[DECODER_READOUT_BIAS][0] += back;
            for (int64_t e = 0; e < E; ++e) {
                const float unit = decoded[n * E + e];
                gradient[DECODER_READOUT][e] += back * unit;
                d_decoded[n * E + e] = unit > 0 ? back * row[e] : 0.0f;
            }
        }
        return total;
    }

    void backward(const float* x, int64_t rows) {
        layer_back(rows, E, E, mixed, d_decoded, DECODER_HIDDEN, decoder_turned, d_mixed);
        if (chosen())
            experts_chosen_back(rows);
        else
            experts_back(rows);
        std::fill(d_found + rows * stream, d_found + most * stream, 0.0f);
        attend_back();
        product_over_samples(E, columns, rows, code, E, projected, columns, d_bank, columns, true);
        add_rows(rows, columns, projected, d_bank_bias);
        product(rows, E, columns, plain(projected, columns), bank_turned, E, d_code, E);
        layer_back(rows, E, E, units, d_code, ENCODER_READOUT, encoder_turned, d_units);
        keep_where_positive(rows * E, units, d_units);
        product_over_samples(F, E, rows, x, F, d_units, E, gradient[ENCODER_HIDDEN], E, true);
        for (int64_t n = 0; n < rows; ++n) add_rows(1, E, d_units + n * E, d_rule_rows + rules[n] * E);
    }

    // Gradients of a linear layer: of its weight, its bias (the next parameter) and its inputs.
    void layer_back(int64_t rows, int64_t in, int64_t out, const float* x, const float* d_y, int weight_,
                    const float* weight_turned, float* d_x) {
        product_over_samples(in, out, rows, x, in, d_y, out, gradient[weight_], out, true);
        add_rows(rows, out, d_y, gradient[weight_ + 1]);
        product(rows, in, out, plain(d_y, out), weight_turned, in, d_x, in);
    }

    void experts_back(int64_t rows) {
        const float* mixed_units = weighted() ? scaled : hidden;
        product_over_samples(C, E, rows, mixed_units, C, d_mixed, E, gradient[EXPERT_READOUT], E, true);
        product(rows, C, E, plain(d_mixed, E), readout_turned, C, d_hidden, C);
        if (weighted()) {
            product_over_samples(M, E, rows, weight, M, d_mixed, E, gradient[EXPERT_READOUT_BIAS], E,
                                 true);
            product(rows, M, E, plain(d_mixed, E), readout_bias_turned, M, d_weight, M);
            for (int64_t i = 0; i < rows * M; ++i)
                d_weight[i] += dot(H, d_hidden + i * H, hidden + i * H);
            scale_rows(rows * M, H, weight, d_hidden, d_hidden);
            if (own_logits())
                own_weights_back(rows, M, H, hidden, parameter[SCORER], weight, d_weight,
                                 gradient[SCORER], gradient[SCORER_BIAS], d_hidden);
            else if (given())
                std::memcpy(step.d_given + row_at * M, d_weight, rows * M * sizeof(float));
            else
                for (int64_t n = 0; n < rows; ++n)
                    add_rows(1, M, d_weight + n * M, d_table + rules[n] * M);
        } else {
            add_rows(rows, E, d_mixed, gradient[EXPERT_READOUT_BIAS]);
        }
        keep_where_positive(rows * C, hidden, d_hidden);
        add_rows(rows, C, d_hidden, gradient[EXPERT_HIDDEN_BIAS]);
        float* positions = projected + 3 * stream;
        for (int64_t m = 0; m < M; ++m) {
            const float *back = d_hidden + m * H, *weights = expert_turned + m * K * H;
            float* d_weights = gradient[EXPERT_HIDDEN] + m * K * H;
            product_over_samples(K - D, H, rows, found + m * (K - D), stream, back, C, d_weights, H,
                                 true);
            product_over_samples(D, H, rows, positions + m * D, columns, back, C,
                                 d_weights + (K - D) * H, H, true);
            product(rows, K - D, H, plain(back, C), weights, K, d_found + m * (K - D), stream);
            product(rows, D, H, plain(back, C), weights + K - D, K, positions + m * D, columns);
        }
    }

    // From gradients of what `prepare` made to those of the parameters.
    void finish() {
        for (int64_t i = 0; i < R * E; ++i) {
            gradient[ENCODER_HIDDEN][F * E + i] = d_rule_rows[i];
            gradient[ENCODER_HIDDEN_BIAS][i % E] += d_rule_rows[i];
        }
        for (int part = 0; part < 4; ++part) {
            const int64_t width = part < 3 ? A * D : M * D;
            for (int64_t e = 0; e < E; ++e)
                std::memcpy(gradient[QUERY + 2 * part] + e * width, d_bank + e * columns + part * stream,
                            width * sizeof(float));
            std::memcpy(gradient[QUERY_BIAS + 2 * part], d_bank_bias + part * stream,
                        width * sizeof(float));
        }
        if (step.routing == Routing::rule)
            table_of_rules_back(R, D, M, scorer(), table_units, table, d_table, turned,
                                gradient[TABLE_HIDDEN], gradient[TABLE_HIDDEN_BIAS],
                                gradient[TABLE_READOUT], gradient[TABLE_READOUT_BIAS]);
    }
};

}  // namespace

MODEVAL_FAMILY(Attention)
