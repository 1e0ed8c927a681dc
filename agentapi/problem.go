package agentapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/keyagent/keyagent/acquire"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/secret"
)

const (
	maxDetailBytes    = 1024
	defaultRetryAfter = 5 * time.Second
	maxRetryAfter     = time.Hour // what another side asks for beyond that is a mistake
)

// problem is why a request does not get what it asks for.
type problem struct {
	wire.Problem
	allow string // methods, for 405
	close bool   // the connection cannot be used any more
	cause error  // for the agent's log only
}

func newProblem(code wire.Code, format string, args ...any) *problem {
	return &problem{Problem: wire.NewProblem(code, clip(fmt.Sprintf(format, args...), maxDetailBytes))}
}

func (p *problem) withHint(hint string) *problem {
	p.Hint = clip(hint, maxDetailBytes)
	return p
}

func (p *problem) withField(name string) *problem {
	p.Field = clip(name, maxAuditedBytes)
	return p
}

func (p *problem) causedBy(err error) *problem {
	p.cause = err
	return p
}

// retryable sets when to come back: in whole seconds, rounded up, at least one.
func (p *problem) retryable(after time.Duration) *problem {
	if after <= 0 {
		after = defaultRetryAfter
	}
	after = min(after, maxRetryAfter)
	p.RetryAfter = int64((after + time.Second - 1) / time.Second)
	return p
}

// tokenProblem says in the API's terms why the source gave no token. The caller may have the
// identity, so it may know what is wrong with it.
func (s *Server) tokenProblem(ctx context.Context, rec *record, err error) *problem {
	var failed *acquire.Error
	switch {
	case errors.As(err, &failed):
		p := acquireProblem(failed)
		if failed.ForOperator() && !rec.rules.Policy.Admin(rec.caller) {
			p.withHint("tell whoever administers the agent: " + p.Hint)
		}
		return p
	case errors.Is(context.Cause(ctx), errStopping):
		return newProblem(wire.CodeUnavailable, "%v", errStopping).retryable(time.Second)
	case errors.Is(err, context.Canceled):
		return newProblem(wire.CodeUnavailable, "the caller did not wait for the answer").retryable(0)
	case errors.Is(err, context.DeadlineExceeded):
		return s.tooLate(rec.patience).retryable(0)
	}
	return newProblem(wire.CodeInternal, "the agent failed to get a token; its log says why").causedBy(err)
}

// tooLate says what keeps the agent: the caller cannot read its log.
func (s *Server) tooLate(waited time.Duration) *problem {
	var waits []string
	if s.cfg.Waits != nil {
		waits = s.cfg.Waits()
	}
	if len(waits) == 0 {
		return newProblem(wire.CodeUnavailable, "no token within %v", waited).
			withHint("the agent goes on trying; its log names the cause")
	}
	return newProblem(wire.CodeUnavailable, "no token within %v: the agent waits for %s", waited, strings.Join(waits, "; ")).
		withHint("the agent goes on trying; if that lasts, tell whoever administers it")
}

func acquireProblem(failed *acquire.Error) *problem {
	if isClaims(failed.Claims) {
		p := newProblem(wire.CodeClaimsRequired, "%v", failed).withHint(failed.Hint)
		p.Claims = failed.Claims
		return p
	}
	var p *problem
	switch failed.Kind {
	case acquire.KindUnknownIdentity:
		p = newProblem(wire.CodeIdentityNotFound, "%v", failed)
	case acquire.KindInvalidResource:
		p = newProblem(wire.CodeInvalidResource, "%v", failed).withField(wire.ParamResource)
	case acquire.KindUnavailable:
		p = newProblem(wire.CodeUnavailable, "%v", failed).retryable(failed.RetryAfter)
	case acquire.KindThrottled:
		p = newProblem(wire.CodeThrottled, "%v", failed).retryable(failed.RetryAfter)
	case acquire.KindRefused:
		p = newProblem(wire.CodeCredentialRefused, "%v", failed)
	default:
		return newProblem(wire.CodeInternal, "the agent failed to get a token; its log says why").causedBy(failed)
	}
	return p.withHint(failed.Hint)
}

// clip makes foreign text fit for a reply or a record: one line, valid UTF-8, no control or format
// characters, no token, at most limit bytes.
func clip(s string, limit int) string {
	s = secret.Hide(strings.ToValidUTF8(s, "?"))
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if len(s) <= limit {
		return s
	}
	const cut = "…"
	return strings.ToValidUTF8(s[:limit-len(cut)], "") + cut
}
