package agentapi

import (
	"cmp"
	"strings"
	"sync"

	"github.com/keyagent/keyagent/acquire"
)

// learnt keeps what tokens have said about whose they are, by the name of the identity:
// the ids of which the configuration has one at most, or none. It holds what the newest
// token said, so that an id goes with the identity that had it. It is safe for concurrent
// use.
//
// An id that was learnt gives nothing: rules go by name, and decide before and after.
type learnt struct {
	mu  sync.RWMutex
	ids map[string]Identity
}

// of returns the ids of an identity that are known; "" for each that is not.
func (l *learnt) of(name string) Identity {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.ids[name]
}

// note takes what a token says, and returns what is known of its owner then. Ids are kept
// from before only if the client id is the same, as not every token has all of them.
func (l *learnt) note(told Identity) Identity {
	if told.ClientID == "" {
		return Identity{}
	}
	had := l.of(told.Name)
	if strings.EqualFold(had.ClientID, told.ClientID) {
		told.ObjectID, told.ResourceID = cmp.Or(told.ObjectID, had.ObjectID), cmp.Or(told.ResourceID, had.ResourceID)
	}
	if told == had {
		return had
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ids[told.Name] = told
	return told
}

// learn notes whose a token is, and returns what is known of its owner then: nothing, if
// that is not whom the configuration means.
func (s *Server) learn(rec *record, token acquire.Token) Identity {
	told := Identity{Name: token.Identity, ClientID: token.ClientID, ObjectID: token.ObjectID, ResourceID: token.ResourceID}
	configured := rec.identityNamed(token.Identity)
	for _, selector := range selectors {
		want, got := selector.of(configured), selector.of(told)
		if want != "" && got != "" && !strings.EqualFold(want, got) {
			return Identity{}
		}
	}
	return s.learnt.note(told)
}
