// Whoami knows nothing of keyagent: it gets a token as Azure's SDKs do in App Service, calls an API
// with it and prints the answer. A program of yours uses an SDK in the place of the function token.
//
//	IDENTITY_ENDPOINT  where tokens are; with IDENTITY_HEADER, as App Service sets it
//	RESOURCE           what the token is for, as in https://vault.azure.net
//	API_URL            what to call, https
//	CA_FILE            optional: PEM of the authorities to trust instead of the system's
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	timeout   = 90 * time.Second
	maxAnswer = 1 << 20 // bytes
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	answer, err := run(ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "whoami:", err)
		os.Exit(1)
	}
	fmt.Println(answer)
}

func run(ctx context.Context) (string, error) {
	transport, err := newTransport(os.Getenv("CA_FILE"))
	if err != nil {
		return "", err
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	access, err := token(ctx, client)
	if err != nil {
		return "", err
	}
	api := os.Getenv("API_URL")
	if !strings.HasPrefix(api, "https://") {
		return "", fmt.Errorf("API_URL must be an https URL: the token goes there")
	}
	body, err := get(ctx, client, api, "Authorization", "Bearer "+access)
	return string(body), err
}

// token is what an SDK does; it would keep the token until refresh_in, too.
func token(ctx context.Context, client *http.Client) (string, error) {
	query := url.Values{"api-version": {"2019-08-01"}, "resource": {os.Getenv("RESOURCE")}}
	body, err := get(ctx, client, os.Getenv("IDENTITY_ENDPOINT")+"?"+query.Encode(), "X-IDENTITY-HEADER", os.Getenv("IDENTITY_HEADER"))
	if err != nil {
		return "", err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" {
		return "", fmt.Errorf("there is no token in the answer")
	}
	return answer.AccessToken, nil
}

func get(ctx context.Context, client *http.Client, address, header, value string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(header, value)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d: %s", req.URL.Host, resp.StatusCode, body)
	}
	return body, nil
}

func newTransport(caFile string) (*http.Transport, error) {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if caFile == "" {
		return transport, nil
	}
	authorities, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(authorities) {
		return nil, fmt.Errorf("%s holds no certificate", caFile)
	}
	return transport, nil
}
