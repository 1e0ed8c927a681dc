package agentapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/waiting"
)

// statusAge is how old a status may be that callers other than administrators get a part of: to
// make one, the TPM is asked.
const statusAge = 2 * time.Second

// notReadyRetry is when to ask again whether the agent is ready.
const notReadyRetry = 5 * time.Second

// health answers GET /healthz: the process answers, and nothing else is looked at.
func (s *Server) health(r *http.Request, _ *record) (reply, *problem) {
	if _, p := parseQuery(r.URL.RawQuery, nil, refuseUnknown); p != nil {
		return reply{}, p
	}
	return reply{body: wire.Health{Status: wire.HealthOK}}, nil
}

// readiness answers GET /readyz. Only an administrator is told why the agent is not ready.
func (s *Server) readiness(r *http.Request, rec *record) (reply, *problem) {
	status, p := s.statusOf(r, rec)
	if p != nil {
		return reply{}, p
	}
	if status.Ready {
		return reply{body: wire.Health{Status: wire.HealthReady}}, nil
	}
	p = newProblem(wire.CodeNotReady, "keyagent status, as an administrator, says why").retryable(notReadyRetry)
	if rec.route.tellsNames() {
		p = newProblem(wire.CodeNotReady, "%s", strings.Join(status.NotReady, "; ")).retryable(notReadyRetry)
		p.Reasons = status.NotReady
	}
	return reply{}, p
}

// statusOf returns the status for a route without parameters: a new one for administrators, one up
// to statusAge old for others, so that they cannot keep the TPM busy.
func (s *Server) statusOf(r *http.Request, rec *record) (wire.Status, *problem) {
	if _, p := parseQuery(r.URL.RawQuery, nil, refuseUnknown); p != nil {
		return wire.Status{}, p
	}
	if rec.route.tellsNames() {
		return s.statusNow(r.Context()), nil
	}
	status, err := s.recent.status(r.Context(), s.cfg.Now, s.statusNow)
	if err != nil {
		return wire.Status{}, newProblem(wire.CodeUnavailable, "the agent is busy").retryable(time.Second)
	}
	return status, nil
}

// statusNow is the status with the server's own part.
func (s *Server) statusNow(ctx context.Context) wire.Status {
	status := s.cfg.Status(ctx)
	status.Audit = s.trail.status()
	if status.Audit.Required && status.Audit.LastError != "" {
		status.Ready = false
		status.NotReady = append(status.NotReady, "audit records are required and cannot be written: "+status.Audit.LastError)
	}
	return status
}

// recentStatus keeps the last status. It is safe for concurrent use.
type recentStatus struct {
	lock waiting.Lock // guards the rest, and is held while a status is made
	at   time.Time
	last wire.Status
}

// status returns the last one, or makes one if that is too old. It fails if the context ends first.
func (k *recentStatus) status(ctx context.Context, now func() time.Time, fresh func(context.Context) wire.Status) (wire.Status, error) {
	if err := k.lock.Lock(ctx); err != nil {
		return wire.Status{}, err
	}
	defer k.lock.Unlock()
	if age := now().Sub(k.at); k.at.IsZero() || age < 0 || age >= statusAge {
		k.last = fresh(context.WithoutCancel(ctx)) // others get it, too
		k.at = now()
	}
	return k.last, nil
}
