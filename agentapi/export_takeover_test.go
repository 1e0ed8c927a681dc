package agentapi

import (
	"net/http"

	"github.com/keyagent/keyagent/agentapi/peer"
)

// TakeoverFor answers requests of a redirected connection as if they came from the caller.
func (s *Server) TakeoverFor(caller peer.Caller, m Metadata, pass ...string) (http.Handler, error) {
	routes, err := takeoverRoutes(pass, m)
	handler := s.handler(&face{routes: routes, errors: takeoverErrors.format})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r.WithContext(withConnection(r.Context(), &connection{caller: caller})))
	}), err
}
