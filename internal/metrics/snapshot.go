package metrics

import (
	"time"

	"github.com/keyagent/keyagent/agentapi"
	"github.com/keyagent/keyagent/agentapi/wire"
)

// snapshot makes readings of what is a number at the moment.
type snapshot struct {
	agentapi.Snapshot
	now      Now
	readings map[string]*reading
}

func (s *snapshot) collect() {
	s.agent()
	s.configuration()
	s.audit()
	s.tokens()
	for _, id := range s.Status.Identities {
		s.identity(id)
	}
}

func (s *snapshot) agent() {
	s.gauge("keyagent_start_time_seconds", "When the agent was started, in seconds since 1970.", seconds(s.Status.Started))
	s.gauge("keyagent_ready", "Whether the agent is ready, as its status has it.", oneIf(s.Status.Ready))
	s.gauge("keyagent_tpm_up", "Whether the TPM answers; 1, too, where the key is in software.", oneIf(s.Status.TPM.LastError == ""))
	if s.now.Queued != nil {
		s.gauge("keyagent_tpm_queue_length", "Callers that wait for their turn at the TPM.", float64(s.now.Queued()))
	}
	waiting := 0
	for _, w := range s.Status.Waiting {
		waiting += w.Count
	}
	s.gauge("keyagent_long_waits", "How many wait for something, such as the TPM or Entra, for more than five seconds.", float64(waiting))
	s.gauge("keyagent_connections", "Open connections to the agent.", float64(s.Connections))
	s.counter("keyagent_connections_turned_away_total", "Connections that were refused because their user, or all of its kind, had too many.", float64(s.TurnedAway))
}

func (s *snapshot) configuration() {
	c := s.Status.Configuration
	const name, help = "keyagent_config_reloads_total", "Reloads of the configuration since the start."
	s.counter(name, help, float64(c.Reloads), "outcome", "done")
	s.counter(name, help, float64(c.Refused), "outcome", "refused")
	s.gauge("keyagent_config_last_reload_successful", "0 if the last reload was refused, so that an older configuration is in force, else 1.",
		oneIf(c.LastReload == nil || c.LastReload.Error == ""))
	s.gauge("keyagent_config_in_force_timestamp_seconds", "Since when the configuration is in force, in seconds since 1970.", seconds(c.Since))
	s.gauge("keyagent_rules_off", "Rules that are not in force because they name an unknown user or group.", float64(len(s.Status.RulesOff)))
}

func (s *snapshot) audit() {
	a := s.Status.Audit
	s.counter("keyagent_audit_records_written_total", "Audit records that were written since the start.", float64(a.Written))
	s.counter("keyagent_audit_records_lost_total", "Answers since the start whose audit record could not be written.", float64(a.Lost))
	s.gauge("keyagent_audit_up", "0 while audit records cannot be written, else 1.", oneIf(a.LastError == ""))
}

func (s *snapshot) tokens() {
	if s.now.Tokens == nil {
		return
	}
	stats := s.now.Tokens()
	s.gauge("keyagent_token_cache_entries", "Tokens in memory.", float64(stats.CachedTokens))
	const name, help = "keyagent_token_cache_lookups_total", "Requests for a token, by whether it was in memory."
	s.counter(name, help, float64(stats.CacheHits), "result", "hit")
	s.counter(name, help, float64(stats.CacheMisses), "result", "miss")
	s.gauge("keyagent_token_fetches_in_flight", "Attempts to obtain a token that are under way.", float64(stats.Flights))
}

func (s *snapshot) identity(id wire.IdentityStatus) {
	s.gauge("keyagent_identity_ready", "0 if the identity is known to be unable to give tokens, else 1.", oneIf(!id.Unable), "identity", id.Name)
	if c := id.Certificate; c != nil {
		s.expiry(id.Name, "", c.EffectiveExpiry)
		s.gauge("keyagent_certificate_renewal_timestamp_seconds", "When the agent renews a binding certificate, in seconds since 1970.", seconds(c.RenewAt), "identity", id.Name)
	}
	seen := map[string]bool{} // an entry with two forms has one certificate
	for _, one := range id.Credentials {
		if c := one.Certificate; c != nil && !seen[one.Name] {
			seen[one.Name] = true
			s.expiry(id.Name, one.Name, c.EffectiveExpiry)
		}
	}
	if id.TLS != nil {
		s.counter("keyagent_tls_handshakes_total", "Handshakes with the identity's binding certificate since the start, each a signature of its key.",
			float64(id.TLS.Handshakes), "identity", id.Name)
	}
}

func (s *snapshot) expiry(identity, credential string, at time.Time) {
	s.gauge("keyagent_certificate_expiry_timestamp_seconds", "When a certificate stops being useful, in seconds since 1970; the credential is empty for a binding certificate.",
		seconds(at), "identity", identity, "credential", credential)
}

// gauge and counter add a sample with labels, each a name and a value.
func (s *snapshot) gauge(name, help string, value float64, labels ...string) {
	s.add(description{name: name, help: help, kind: gauge}, value, labels)
}

func (s *snapshot) counter(name, help string, value float64, labels ...string) {
	s.add(description{name: name, help: help, kind: counter}, value, labels)
}

func (s *snapshot) add(of description, value float64, labels []string) {
	r := s.readings[of.name]
	if r == nil {
		r = &reading{description: of}
		s.readings[of.name] = r
	}
	next := sample{value: value}
	for i := 0; i < len(labels); i += 2 {
		next.labels = append(next.labels, label{labels[i], labels[i+1]})
	}
	r.samples = append(r.samples, next)
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func oneIf(so bool) float64 {
	if so {
		return 1
	}
	return 0
}
