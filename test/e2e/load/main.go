// Command load asks the agent for a token again and again, over a new connection each time as
// programs that are started do, and counts what comes of it. It runs until it is interrupted, and
// then prints the counts, a line each, and what was wrong with the first of each kind.
//
// A request is lost if its connection was refused or broken, or if it was answered with a failure
// that does not say when to come back.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

const pause = 20 * time.Millisecond

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: load SOCKET IDENTITY RESOURCE")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	query := url.Values{"identity": {os.Args[2]}, "resource": {os.Args[3]}}
	counts, first := map[string]int{}, map[string]string{}
	for ctx.Err() == nil {
		kind, detail := ask(os.Args[1], "http://keyagent/v1/token?"+query.Encode())
		counts[kind]++
		if _, seen := first[kind]; !seen {
			first[kind] = detail
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	kinds := []string{}
	for kind := range counts {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		fmt.Println(kind, counts[kind], first[kind])
	}
}

// ask makes one request, and says what came of it. It outlives an interrupt, which is no fault of
// the agent's.
func ask(socket, address string) (kind, detail string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "broken", err.Error()
	}
	resp, err := transport.RoundTrip(req)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return "refused", err.Error()
	case err != nil:
		return "broken", err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	switch {
	case err != nil:
		return "broken", err.Error()
	case resp.StatusCode == http.StatusOK:
		return "answered", ""
	case resp.Header.Get("Retry-After") != "":
		return "retryable", resp.Status
	}
	return "failed", fmt.Sprintf("%s %s", resp.Status, body)
}
