package imds

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/keyagent/keyagent/simulator/journal"
)

// Behaviour is what the service can be switched to, before and while it runs. The zero value is a
// host with managed identity v2 and without limits.
type Behaviour struct {
	NoV2        bool   `json:"no_v2"`        // an older host: managed identity v2 answers 404
	BypassCache string `json:"bypass_cache"` // of issuecredential: BypassSupported, which is meant by "", or BypassRefused
	Limit       *Limit `json:"limit"`        // on the whole identity category; nil: none
}

// Values of Behaviour.BypassCache.
const (
	BypassSupported = "supported"
	BypassRefused   = "refused"
)

// Limit is the rate that IMDS documents: requests beyond it get 429, without Retry-After.
type Limit struct {
	PerSecond  int `json:"per_second"` // 0 means 20
	Concurrent int `json:"concurrent"` // 0 means 5
}

func (l Limit) orDefault() Limit {
	if l.PerSecond == 0 {
		l.PerSecond = 20
	}
	if l.Concurrent == 0 {
		l.Concurrent = 5
	}
	return l
}

// Set replaces the behaviour.
func (s *Server) Set(b Behaviour) error {
	if b.BypassCache != "" && b.BypassCache != BypassSupported && b.BypassCache != BypassRefused {
		return fmt.Errorf("bypass_cache %q, want %s or %s", b.BypassCache, BypassSupported, BypassRefused)
	}
	if b.Limit != nil && (b.Limit.PerSecond < 0 || b.Limit.Concurrent < 0) {
		return fmt.Errorf("limit %+v is less than 0", *b.Limit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behaviour, s.second, s.asked = b, 0, 0
	return nil
}

func (s *Server) current() Behaviour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behaviour
}

// enter counts a request to path and reports whether the limit leaves room for it. leave is to be
// called when it is over.
func (s *Server) enter(path string) (leave func(), ok bool) {
	if !strings.HasPrefix(path, "/metadata/identity/") {
		return func() {}, true
	}
	second := s.cfg.Now().Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	if second != s.second {
		s.second, s.asked = second, 0
	}
	s.asked++
	s.inside++
	leave = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inside--
	}
	if s.behaviour.Limit == nil {
		return leave, true
	}
	limit := s.behaviour.Limit.orDefault()
	return leave, s.asked <= limit.PerSecond && s.inside <= limit.Concurrent
}

func tooMany(*http.Request, *journal.Entry) (any, error) {
	return nil, &refusal{status: http.StatusTooManyRequests, code: "too_many_requests", description: "Too many requests"}
}
