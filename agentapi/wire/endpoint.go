package wire

import "log/slog"

// Endpoint is the body of a successful POST [PathEndpoint]: where a program that speaks a protocol
// of Azure's SDKs finds the agent on loopback, and the secret that it must show there.
type Endpoint struct {
	Identity string `json:"identity"` // that requests without a selector mean
	// Secret is for the caller's user alone, in its systemd unit where that is known, and ends as
	// Lifetime says.
	Secret     Secret `json:"secret"`
	AppService string `json:"app_service"`    // URL, as IDENTITY_ENDPOINT and MSI_ENDPOINT
	IMDS       string `json:"imds,omitempty"` // base URL, as AZURE_POD_IDENTITY_AUTHORITY_HOST; it needs no secret
	Lifetime   string `json:"lifetime"`       // LifetimeProcess or LifetimeUnit
}

// LogValue implements [slog.LogValuer]: a JSON log handler would encode the struct, and with it the
// secret.
func (e Endpoint) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("identity", e.Identity), slog.String("app_service", e.AppService),
		slog.String("imds", e.IMDS), slog.String("lifetime", e.Lifetime),
	)
}
