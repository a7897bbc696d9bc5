

def test_points_that_nobody_measured_or_forecast_do_not_spoil_the_spread():
    members = xr.DataArray([[1.0, 2.0, 4.0], [3.0, 2.0, np.nan], [2.0, 5.0, np.nan]], dims=("member", "x"))
    members = xr.concat([members, members.isel(x=[0]) * np.nan], "x")
    observed = xr.DataArray([2.0, np.nan, 1.0, 1.0], dims="x")
    found = verify.spread_skill(observed, members)
    alone = verify.spread_skill(observed[:1], members[:, :1])
    xr.testing.assert_allclose(found, alone)
