package metrics

import (
	"runtime"
	"time"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/tpm"
)

// Metrics is all that the agent counts. It is safe for concurrent use.
type Metrics struct {
	build *reading
	now   Now

	issued, answers, calls, fetches, commands *counters
	took, fetching, command, turns            *histograms
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
	return &Metrics{
		build: one(gauge, "keyagent_build_info", "Always 1; the labels say which program runs.", 1,
			label{"version", version}, label{"goversion", runtime.Version()}),
		issued: newCounters("keyagent_tokens_issued_total",
			"Tokens that were given to callers, by the strength of the credential that obtained them.", "identity", "strength", "source"),
		answers: newCounters("keyagent_answers_total",
			"Answers to requests, and refusals of connections; the code is that of a problem, or empty.", "endpoint", "outcome", "code", "identity"),
		calls: newCounters("keyagent_resource_calls_total",
			"Calls to resources that the agent has made for callers, by how they ended and the class of the resource's answer.", "identity", "outcome", "status"),
		took: newHistograms("keyagent_answer_duration_seconds",
			"Time until a request was answered, by where its token came from.", answerBuckets(), "source"),
		fetches: newCounters("keyagent_token_fetches_total",
			"Attempts to obtain a token that was not in memory, or is to be replaced.", "identity", "outcome"),
		fetching: newHistograms("keyagent_token_fetch_duration_seconds", "Time that an attempt to obtain a token took.", fetchBuckets()),
		commands: newCounters("keyagent_tpm_commands_total", "Commands to the TPM, by how they ended.", "command", "outcome"),
		command:  newHistograms("keyagent_tpm_command_duration_seconds", "Time until the TPM answered a command.", tpmBuckets(), "command"),
		turns:    newHistograms("keyagent_tpm_queue_duration_seconds", "Time that a caller waited for its turn at the TPM.", tpmBuckets()),
	}
}

// Activity is how many answers were given and tokens fetched: a number that stays the same while
// nothing happens.
func (m *Metrics) Activity() uint64 { return total(m.answers) + total(m.fetches) }

// Watch says what is asked when the metrics are read. It must be called before they are, if at all.
func (m *Metrics) Watch(now Now) { m.now = now }

// Answered implements [agentapi.Metrics].
func (m *Metrics) Answered(a agentapi.Answer) {
	m.answers.with(values{a.Endpoint, a.Decision, string(a.Code), a.Identity}).Add(1)
	m.took.with(values{a.Source}).observe(a.Took)
	if a.Source != "" {
		m.issued.with(values{a.Identity, a.Strength, a.Source}).Add(1)
	}
}

// CallEnded implements [agentapi.Metrics].
func (m *Metrics) CallEnded(c agentapi.Call) {
	m.calls.with(values{c.Identity, c.End, c.Status}).Add(1)
}

// obtained is the outcome of a fetch that gave a token; others are the kinds of failures.
const obtained = "obtained"

// TokenFetched implements [acquire.Observer].
func (m *Metrics) TokenFetched(identity string, took time.Duration, failure acquire.Kind) {
	outcome := obtained
	if failure != "" {
		outcome = string(failure)
	}
	m.fetches.with(values{identity, outcome}).Add(1)
	m.fetching.with(values{}).observe(took)
}

// TPMTurn implements [tpm.Observer].
func (m *Metrics) TPMTurn(waited time.Duration) { m.turns.with(values{}).observe(waited) }

// TPMCommand implements [tpm.Observer].
func (m *Metrics) TPMCommand(name string, took time.Duration, outcome string) {
	m.commands.with(values{name, outcome}).Add(1)
	m.command.with(values{name}).observe(took)
}
