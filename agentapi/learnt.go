package agentapi

import (
	"cmp"
	"strings"
	"sync"

	"github.com/keyagent/keyagent/acquire"
)

// learnt keeps the ids of each identity that its newest token told, by the name of the identity.
// The configuration has one of them at most. An id is forgotten when a newer token tells another.
// It is safe for concurrent use.
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

// note adds the ids that a token names, and returns all that is known of its owner. Ids are kept
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

// learn notes the ids of its owner that a token names, and returns all that is known of the owner:
// nothing if an id differs from that in the configuration.
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
