package agentapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
)

// metrics answers GET /metrics: of the status, what is a number, for programs that watch many
// machines (Prometheus, text-based exposition format 0.0.4).
func (s *Server) metrics(r *http.Request, rec *record) (reply, *problem) {
	said, p := s.status(r, rec)
	if p != nil {
		return reply{}, p
	}
	return reply{text: metricsText(said.body.(wire.Status))}, nil
}

func metricsText(s wire.Status) []byte {
	var m metricsWriter
	m.gauge("keyagent_info", "Always 1; the label is the agent's version.")
	m.sample(1, "version", s.Version)
	m.gauge("keyagent_start_time_seconds", "When the agent was started, in seconds since 1970.")
	m.sample(seconds(s.Started))
	m.gauge("keyagent_ready", "Whether the agent is ready, as its status has it.")
	m.sample(oneIf(s.Ready))
	m.gauge("keyagent_tpm_answers", "Whether the TPM answers; 1, too, where the key is in software.")
	m.sample(oneIf(s.TPM.LastError == ""))
	m.gauge("keyagent_rule_off", "1 for each rule that is not in force because it names an unknown user or group.")
	for _, rule := range s.RulesOff {
		m.sample(1, "rule", rule.Name)
	}
	m.gauge("keyagent_waits", "How many requests have waited for something for more than five seconds.")
	for _, wait := range s.Waiting {
		m.sample(float64(wait.Count), "for", wait.What)
	}
	m.counter("keyagent_reloads_total", "Reloads of the configuration since the start.")
	m.sample(float64(s.Configuration.Reloads), "outcome", "done")
	m.sample(float64(s.Configuration.Refused), "outcome", "refused")
	m.counter("keyagent_audit_records_lost_total", "Answers since the start whose audit record could not be written.")
	m.sample(float64(s.Audit.Lost))
	m.identities(s.Identities)
	return []byte(m.String())
}

func (m *metricsWriter) identities(list []wire.IdentityStatus) {
	m.gauge("keyagent_identity_ready", "0 if the identity is known to be unable to give tokens, else 1.")
	for _, id := range list {
		m.sample(oneIf(!id.Unable), "identity", id.Name)
	}
	m.gauge("keyagent_certificate_expiry_timestamp_seconds", "When a certificate stops being useful, in seconds since 1970; the credential is empty for a binding certificate.")
	for _, id := range list {
		if c := id.Certificate; c != nil {
			m.sample(seconds(c.EffectiveExpiry), "identity", id.Name, "credential", "")
		}
		seen := map[string]bool{} // an entry with two forms has one certificate
		for _, one := range id.Credentials {
			if c := one.Certificate; c != nil && !seen[one.Name] {
				m.sample(seconds(c.EffectiveExpiry), "identity", id.Name, "credential", one.Name)
				seen[one.Name] = true
			}
		}
	}
	m.counter("keyagent_tls_handshakes_total", "Handshakes with the identity's certificate since the start, each a signature of the TPM.")
	for _, id := range list {
		if id.TLS != nil {
			m.sample(float64(id.TLS.Handshakes), "identity", id.Name)
		}
	}
}

// metricsWriter writes one metric after the other.
type metricsWriter struct {
	strings.Builder
	name string
}

func (m *metricsWriter) gauge(name, help string)   { m.begin(name, "gauge", help) }
func (m *metricsWriter) counter(name, help string) { m.begin(name, "counter", help) }

func (m *metricsWriter) begin(name, kind, help string) {
	m.name = name
	m.WriteString("# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n")
}

// sample writes a value of the metric with labels, each a name and a value.
func (m *metricsWriter) sample(value float64, labels ...string) {
	m.WriteString(m.name)
	var pairs []string
	for label := range slices.Chunk(labels, 2) {
		pairs = append(pairs, label[0]+`="`+labelValue(label[1])+`"`)
	}
	if len(pairs) > 0 {
		m.WriteString("{" + strings.Join(pairs, ",") + "}")
	}
	m.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}

// labelValue escapes what would end a label's value, or the line.
func labelValue(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(text, "?"))
}

func seconds(t time.Time) float64 { return float64(t.Unix()) }

func oneIf(so bool) float64 {
	if so {
		return 1
	}
	return 0
}
