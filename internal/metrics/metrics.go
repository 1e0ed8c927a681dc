package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/tpm"
)

// Metrics is all that the agent counts. It is safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	now      Now

	issued   *prometheus.CounterVec
	answers  *prometheus.CounterVec
	took     *prometheus.HistogramVec
	fetches  *prometheus.CounterVec
	fetching prometheus.Histogram
	commands *prometheus.CounterVec
	command  *prometheus.HistogramVec
	turns    prometheus.Histogram
}

// Now is what is asked for its numbers when the metrics are read. Its functions must be safe for
// concurrent use, and not block.
type Now struct {
	Tokens func() acquire.Stats // nil: there are none
	Queued func() int           // at the TPM; nil: there is none
}

var (
	_ agentapi.Metrics = (*Metrics)(nil)
	_ acquire.Observer = (*Metrics)(nil)
	_ tpm.Observer     = (*Metrics)(nil)
)

// Bounds of the histograms, in seconds. A cached token takes some tens of microseconds, a TPM's
// signature between 5 ms and a second, and Entra a second or so.
func answerBuckets() []float64 {
	return []float64{.00005, .0001, .00025, .001, .01, .1, .5, 1, 2.5, 5, 10, 30, 60}
}

func fetchBuckets() []float64 { return []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180} }

func tpmBuckets() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 90}
}

// New returns metrics on which nothing is counted yet.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewPedanticRegistry(),
		issued: counters("keyagent_tokens_issued_total",
			"Tokens that were given to callers, by the strength of the credential that obtained them.", "identity", "strength", "source"),
		answers: counters("keyagent_answers_total",
			"Answers to requests, and refusals of connections; the code is that of a problem, or empty.", "endpoint", "outcome", "code", "identity"),
		took:    histograms("keyagent_answer_duration_seconds", "Time until a request was answered, by where its token came from.", answerBuckets(), "source"),
		fetches: counters("keyagent_token_fetches_total", "Attempts to obtain a token that was not in memory, or is to be replaced.", "identity", "outcome"),
		fetching: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keyagent_token_fetch_duration_seconds", Help: "Time that an attempt to obtain a token took.", Buckets: fetchBuckets(),
		}),
		commands: counters("keyagent_tpm_commands_total", "Commands to the TPM, by how they ended.", "command", "outcome"),
		command:  histograms("keyagent_tpm_command_duration_seconds", "Time until the TPM answered a command.", tpmBuckets(), "command"),
		turns: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "keyagent_tpm_queue_duration_seconds", Help: "Time that a caller waited for its turn at the TPM.", Buckets: tpmBuckets(),
		}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "keyagent_build_info", Help: "Always 1; the labels say which program runs.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(build, m.issued, m.answers, m.took, m.fetches, m.fetching, m.commands, m.command, m.turns,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

// Watch says what is asked when the metrics are read. It must be called before they are, if at all.
func (m *Metrics) Watch(now Now) { m.now = now }

// Answered implements [agentapi.Metrics].
func (m *Metrics) Answered(a agentapi.Answer) {
	m.answers.WithLabelValues(a.Endpoint, a.Decision, string(a.Code), a.Identity).Inc()
	m.took.WithLabelValues(a.Source).Observe(a.Took.Seconds())
	if a.Source != "" {
		m.issued.WithLabelValues(a.Identity, a.Strength, a.Source).Inc()
	}
}

// obtained is the outcome of a fetch that gave a token; others are the kinds of failures.
const obtained = "obtained"

// TokenFetched implements [acquire.Observer].
func (m *Metrics) TokenFetched(identity string, took time.Duration, failure acquire.Kind) {
	outcome := obtained
	if failure != "" {
		outcome = string(failure)
	}
	m.fetches.WithLabelValues(identity, outcome).Inc()
	m.fetching.Observe(took.Seconds())
}

// TPMTurn implements [tpm.Observer].
func (m *Metrics) TPMTurn(waited time.Duration) { m.turns.Observe(waited.Seconds()) }

// TPMCommand implements [tpm.Observer].
func (m *Metrics) TPMCommand(name string, took time.Duration, outcome string) {
	m.commands.WithLabelValues(name, outcome).Inc()
	m.command.WithLabelValues(name).Observe(took.Seconds())
}
