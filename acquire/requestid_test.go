package acquire_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/keyagent/keyagent/acquire"
)

// A fetch that several requests share is in the log with the id of the one that began it.
func TestTheLogOfAFetchHasTheRequestThatBeganIt(t *testing.T) {
	w := newWorld(t)
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	w.answerWith(func(rw http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-release
		http.Error(rw, `{"error":"invalid_client","error_codes":[51000]}`, http.StatusUnauthorized)
	})
	var all sync.WaitGroup
	ask := func(id string) {
		all.Go(func() {
			if _, err := w.get(acquire.Request{ID: id}); !isKind(err, acquire.KindRefused) {
				t.Errorf("%s: got %v", id, err)
			}
		})
	}
	ask("first-request")
	<-arrived
	ask("second-request")
	close(release)
	all.Wait()
	log := w.log.String()
	if strings.Count(log, "token not obtained") != 1 || !strings.Contains(log, `msg="token not obtained" request_id=first-request identity=`) {
		t.Errorf("the log says:\n%s", log)
	}
}
