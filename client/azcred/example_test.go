package azcred_test

import (
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/client/azcred"
)

// Every client of the Azure SDK takes the credential, as in
// azsecrets.NewClient("https://example.vault.azure.net", credential, nil). This is what they make
// of it.
func Example() {
	agent := client.New(client.Config{}) // one for the whole program
	defer func() { _ = agent.Close() }()

	credential, err := azcred.New(agent, &azcred.Options{Identity: "vm"})
	if err != nil {
		fmt.Println(err)
		return
	}
	authorization := runtime.NewBearerTokenPolicy(credential, []string{"https://vault.azure.net/.default"}, nil)
	_ = runtime.NewPipeline("example", "v1.0.0", runtime.PipelineOptions{PerRetry: []policy.Policy{authorization}}, nil)
	fmt.Println("nothing was asked yet")
	// Output: nothing was asked yet
}
